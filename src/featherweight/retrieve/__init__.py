"""Which part of a long text matters for a query."""
