//! The book and the README: no page is lost, no link is broken, and what they say to type works.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use tests::{Facility, available, binary};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project").to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Markdown files below a folder.
fn pages_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("a folder of pages") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            pages.append(&mut pages_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.insert(path);
        }
    }
    pages
}

fn links(text: &str) -> Vec<String> {
    let events = Parser::new_ext(text, Options::ENABLE_TABLES);
    let links = events.filter_map(|event| match event {
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(dest_url.into_string())
        }
        _ => None,
    });
    links.collect()
}

/// The anchors that mdBook and code hosts make of a page's headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(words) | Event::Code(words) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&words);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let words = heading.take().expect("a heading that ends has begun").to_lowercase();
                let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
            }
            _ => (),
        }
    }
    anchors
}

/// The lines of a page's code blocks that are a command called `name`, comments and all.
fn commands(text: &str, name: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut in_shell = false;
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => in_shell = true,
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => in_shell = &*language == "sh",
            Event::End(TagEnd::CodeBlock) => in_shell = false,
            Event::Text(lines) if in_shell => {
                let is_ours = |line: &&str| line.split_whitespace().next() == Some(name);
                commands.extend(lines.lines().filter(is_ours).map(str::to_owned));
            }
            _ => (),
        }
    }
    commands
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let docs = project().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = links(&read(&summary)).iter().map(|link| docs.join(link)).collect();
    let mut pages = pages_below(&docs);
    pages.remove(&summary);
    assert_eq!(listed, pages, "docs/SUMMARY.md lists other pages than there are");

    pages.extend([project().join("README.md"), project().join("testbed/README.md")]);
    let mut broken = String::new();
    for page in pages {
        let text = read(&page);
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if path.is_empty() { page.clone() } else { page.with_file_name(path) };
            if !target.exists() {
                let _ = writeln!(broken, "{}: {link}: no such file", page.display());
            } else if !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                let _ = writeln!(broken, "{}: {link}: no such heading", page.display());
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    // A name stands in column 2; what is indented further goes on with the line above.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|&name| name != "help")
        .map(str::to_owned)
        .collect()
}

fn describe(command: &[String], page: &mut String) {
    let output = Command::new(binary("twzvmm")).args(command).arg("--help").output().expect("twzvmm starts");
    assert!(output.status.success(), "twzvmm {command:?} --help");
    let help = String::from_utf8(output.stdout).expect("help is text");
    let title = [&["twzvmm".to_owned()], command].concat().join(" ");
    let text: String = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let _ = write!(
        page,
        "\n{} {title}\n\n```text\n{}\n```\n",
        "#".repeat(2 + command.len().min(2)),
        text.trim_end()
    );
    for name in subcommands(&help) {
        describe(&[command, &[name]].concat(), page);
    }
}

#[test]
fn command_lines_are_documented_as_they_are() {
    let mut wanted = String::from(
        "# Command lines\n\nWhat `--help` prints, for every command; a test keeps this page so. \
         `TWZ_UPDATE_DOCS=1 cargo test -p tests -- command_lines` writes it.\n",
    );
    describe(&[], &mut wanted);
    let path = project().join("docs/command-line.md");
    if std::env::var_os("TWZ_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).expect("a page that may be written");
    }
    let page = read(&path);
    let differs = page.lines().zip(wanted.lines()).find(|(is, should)| is != should);
    assert!(
        page == wanted,
        "docs/command-line.md is out of date, first at {differs:?}: TWZ_UPDATE_DOCS=1 cargo test -p tests -- command_lines"
    );
}

/// A step of a page that a reader follows.
enum Step {
    /// Write this to that file.
    File(String, String),
    /// Type this line, and see that: lines in which `…` stands for any text.
    Command(String, Vec<String>),
}

/// The steps of a page: blocks marked `rust,file=PATH`, and in blocks marked `console` the lines after `$ ` with what comes out.
fn steps(text: &str, console: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut block = String::new();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => block = language.to_string(),
            Event::End(TagEnd::CodeBlock) => block.clear(),
            Event::Text(lines) if block == console => {
                for line in lines.lines() {
                    match (line.strip_prefix("$ "), steps.last_mut()) {
                        (Some(command), _) => steps.push(Step::Command(command.to_owned(), Vec::new())),
                        (None, Some(Step::Command(_, output))) => output.push(line.to_owned()),
                        (None, _) => panic!("output of no command: {line}"),
                    }
                }
            }
            Event::Text(lines) => {
                if let Some((_, path)) = block.split_once("file=") {
                    steps.push(Step::File(path.to_owned(), lines.to_string()));
                }
            }
            _ => (),
        }
    }
    steps
}

/// Whether `line` is what `pattern` says, with one `…` for any text.
fn is_like(line: &str, pattern: &str) -> bool {
    match pattern.split_once('…') {
        None => line == pattern,
        Some((before, after)) => {
            line.len() >= before.len() + after.len() && line.starts_with(before) && line.ends_with(after)
        }
    }
}

mod local {
    use super::*;

    /// What the pages tell a newcomer to type, in one folder, in their order; devices that this host lacks excepted.
    #[test]
    fn what_the_pages_say_to_type_works() {
        if !available(Facility::Kvm) {
            return;
        }
        let twzvmm = binary("twzvmm");
        let search =
            format!("{}:{}", twzvmm.parent().expect("a folder").display(), std::env::var("PATH").unwrap());
        for page in ["README.md", "docs/install.md", "docs/shell.md"] {
            let folder = tempfile::tempdir().unwrap();
            let all = commands(&read(&project().join(page)), "twzvmm");
            assert!(!all.is_empty(), "{page} has no commands any more");
            // `…` stands for what the reader puts in; a device is tried in the testbed.
            for line in
                all.iter().filter(|line| !line.contains('…') && !line.starts_with("twzvmm --pmem /dev/"))
            {
                std::fs::write(
                    folder.path().join("twz.toml"),
                    "pmem = \"pool.img\"\nharts = 2\nmem = \"512M\"\n",
                )
                .unwrap();
                // The script of the shell's page.
                std::fs::write(folder.path().join("commands.txt"), "run counter\n").unwrap();
                let output = Command::new("sh")
                    .args(["-c", line])
                    .current_dir(folder.path())
                    .env("PATH", &search)
                    .output()
                    .unwrap();
                assert!(
                    output.status.success(),
                    "{page}: `{line}`: {}\n{}{}",
                    output.status,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }

    /// Follows the tutorial: all of its commands in one shell, its files in the folder that the shell is in then.
    #[test]
    fn the_tutorial_can_be_followed() {
        if available(Facility::Kvm) {
            follow(&project(), steps(&read(&project().join("docs/tutorial.md")), "console"));
        }
    }

    /// The page of programs, in a folder of its own.
    #[test]
    fn the_programs_can_be_tried() {
        if available(Facility::Kvm) {
            let folder = tempfile::tempdir().unwrap();
            follow(folder.path(), steps(&read(&project().join("docs/programs.md")), "console"));
        }
    }
}

/// The files of the tutorial's first part, with the commands of its section for machines without KVM.
#[test]
fn the_tutorial_can_be_followed_without_kvm() {
    let steps = steps(&read(&project().join("docs/tutorial.md")), "console,hosted");
    let (mut files, mut commands): (Vec<Step>, Vec<Step>) =
        steps.into_iter().partition(|step| matches!(step, Step::File(..)));
    let is = |step: &Step, what: fn(&str) -> bool| matches!(step, Step::Command(command, _) if what(command));
    assert!(!commands.iter().any(|step| is(step, |command| command.contains("--pmem"))), "a machine");
    // The program goes into the folder that was made for it.
    let made = commands.iter().position(|step| is(step, |command| command.starts_with("cd ")));
    commands.insert(made.expect("a folder to go to") + 1, files.pop().expect("a program"));
    let steps = commands;
    follow(&project(), steps);
}

#[test]
fn a_program_of_one_s_own_gets_a_name_that_cargo_takes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, is_made) in
        [("notes", true), ("my-notes_2", true), ("my.notes", false), ("2nd", false), ("a b", false)]
    {
        let path = folder.path().join(name);
        let script = project().join("scripts/new-program");
        let output = Command::new(script).arg(&path).output().expect("a shell");
        assert_eq!((output.status.success(), path.exists()), (is_made, is_made), "{name}: {output:?}");
    }
}

#[test]
fn every_program_is_on_the_page_of_programs() {
    let page = read(&project().join("docs/programs.md"));
    let list = read(&project().join("images/default.toml"));
    let programs: Vec<&str> =
        list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
    assert!(programs.len() > 20, "{programs:?}");
    for program in programs {
        assert!(
            page.contains(&format!("`{program}`")) || page.contains(&format!("## {program}:")),
            "no {program}"
        );
    }
}

/// Does what a page says, all of its commands in one shell that begins in `folder`, its files in the folder that the shell is in then.
fn follow(folder: &Path, steps: Vec<Step>) {
    // What they compile goes to the same place.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let home = tempfile::tempdir().unwrap();
    let mut script = String::from("set -u\n");
    let mut wanted = Vec::new();
    for step in steps {
        match step {
            Step::File(path, text) => {
                let _ = writeln!(script, "cat >{path} <<'END_OF_FILE'\n{text}END_OF_FILE");
            }
            Step::Command(command, output) => {
                // Compiled programs are kept from run to run, beside those of other tests.
                let target = project().join("target/own-program");
                std::fs::create_dir_all(&target).expect("a folder for what is built");
                let keep = if command.starts_with("cd ") {
                    format!("; ln -s '{}' target", target.display())
                } else {
                    String::new()
                };
                let _ = writeln!(script, "echo '=== {}'; {command}{keep}", wanted.len());
                wanted.push((command, output));
            }
        }
    }
    assert!(wanted.len() > 9, "the page has {} commands", wanted.len());
    let mut shell = Command::new("sh");
    let binaries = binary("twzvmm").parent().expect("a folder").to_owned();
    shell.args(["-c", &script]).current_dir(folder).env("HOME", home.path());
    // Toolchains are found by the home that is replaced, unless they are told.
    for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        if std::env::var_os(variable).is_none() {
            shell.env(variable, Path::new(&std::env::var_os("HOME").expect("a home")).join(folder));
        }
    }
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    // What is built goes where the pages say.
    shell.env("PATH", path).env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR");
    let output = tests::start(shell).wait(std::time::Duration::from_secs(900));
    let parts: Vec<Vec<&str>> =
        output.stdout.split("=== ").skip(1).map(|part| part.lines().skip(1).collect()).collect();
    assert_eq!(parts.len(), wanted.len(), "{output:?}");
    for ((command, wanted), lines) in wanted.iter().zip(parts) {
        let ok = wanted.iter().map(String::as_str).eq(["…"])
            || (lines.len() == wanted.len() && lines.iter().zip(wanted).all(|(line, is)| is_like(line, is)));
        assert!(ok, "`{command}` printed {lines:#?} instead of {wanted:#?}\n{}", output.stderr);
    }
}
