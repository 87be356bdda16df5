//! The private PostgreSQL of `dev`.
