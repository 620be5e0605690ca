"""What a source promises: its columns, codes and rules, as versioned YAML."""
