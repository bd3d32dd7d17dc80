//! Durable stores to persistent memory.
#![no_std]
