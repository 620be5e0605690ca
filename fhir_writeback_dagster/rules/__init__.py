"""Pure decisions that several layers share; no database, no network, no clock of their own."""
