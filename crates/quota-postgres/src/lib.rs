//! quota-postgres.
