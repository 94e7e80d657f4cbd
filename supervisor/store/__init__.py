"""The store: connection and rights, schema and migrations, and the queries; the only SQL of the project."""
