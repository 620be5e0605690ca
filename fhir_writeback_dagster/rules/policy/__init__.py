"""What a tenant's Cedar policies say of one write, and the cases that test them."""
