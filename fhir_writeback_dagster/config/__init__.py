"""What a project configures: settings of a process, tenants, secrets by reference, YAML files with their lines."""
