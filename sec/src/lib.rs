//! Capabilities and security contexts.
#![no_std]
