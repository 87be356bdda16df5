//! quota-kafka.
