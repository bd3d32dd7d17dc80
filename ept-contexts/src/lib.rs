//! Security contexts as second-stage tables.
