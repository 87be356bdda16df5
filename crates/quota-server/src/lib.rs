//! quota-server.
