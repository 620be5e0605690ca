"""Events of everything that changed, inserted in the writer's own transaction."""
