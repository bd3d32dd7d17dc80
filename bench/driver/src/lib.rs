//! What benchmarks share: rows, and the report that is made of them.
//!
//! # Contract
//! - A benchmark is a program that writes [`row::Row`]s as JSON (see [`row::write`]); `bench` collects them, adds its own, and reports.
//! - A figure is the median of at least seven interleaved repeats: ours, the peer, ours again; rounds are the outermost loop. Its quartiles go
//!   with it. Rounds that something else on the core disturbed are measured again ([`steady`]).
//! - What cannot be measured is there with its aim and the reason ([`row::Row::skip`]); what is measured with less than in a full run says
//!   so ([`row::Row::sized`]).
//! - `report.json` is the list of all rows. Beside it: `report.md`, an SVG of the ratios for each group, figures over several rows
//!   ([`figures`]), and `host.json`, what it was measured on.

pub mod arguments;
pub mod clock;
pub mod compare;
pub mod figures;
pub mod host;
pub mod inside;
pub mod pace;
pub mod peer;
pub mod plot;
pub mod report;
pub mod row;
pub mod sample;
pub mod steady;
