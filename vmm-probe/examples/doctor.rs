//! Prints what the probes find on this host; `--json` for the data.

fn main() {
    let report = vmm_probe::probe(&vmm_probe::Host::default());
    if std::env::args().nth(1).as_deref() == Some("--json") {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("{error}"),
        }
    } else {
        print!("{report}");
    }
    if report.usable().is_err() {
        std::process::exit(2);
    }
}
