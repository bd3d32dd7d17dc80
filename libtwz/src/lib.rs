//! What programs link.
#![no_std]
