//! A machine while it runs: its streams, its time limits, its end.
//!
//! # Contract
//! - Every wait has a limit: booting [`Plan::boot_limit`], everything `--timeout`.
//! - The machine is dead when a [`Machine`] is dropped. If this process dies without that, the kernel kills it
//!   (PR_SET_PDEATHSIG, set by `setpriv`).
//!
//! States: `Booting --ready--> Running --status--> Ended`; time, a signal or a power cut leave from any of them.
//!
//! One thread copies each stream; they and the signals report to [`Machine::supervise`], which alone decides.

use crate::cli::{Arguments, PowerCut};
use crate::nvdimm::Nvdimm;
use crate::stream::{EndMark, LineWatch};
use crate::terminal::Terminal;
use crate::{EXIT_POWER_CUT, EXIT_TIMEOUT};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the last bytes of a machine that was killed may take to come out.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How often we look if a machine that powers off is gone.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// How much of the console and of the emulator's messages an error shows.
const LAST_LINES: usize = 15;

/// A machine that is ready to be started.
pub(crate) struct Plan {
    /// Runs the emulator.
    pub(crate) command: Command,
    /// Lines from guest/init.
    pub(crate) control: Box<dyn Read + Send>,
    /// CMD's standard output, then the end mark.
    pub(crate) output: Box<dyn Read + Send>,
    /// CMD's standard error, then the end mark.
    pub(crate) error: Box<dyn Read + Send>,
    /// CMD's standard input.
    pub(crate) input: Option<UnixStream>,
    /// The emulator's ends of all these, to be closed here once it has them.
    pub(crate) emulator_ends: Vec<UnixStream>,
    /// What guest/init writes after the last byte of output and error.
    pub(crate) end_mark: String,
    /// The file with the kernel's console.
    pub(crate) console: PathBuf,
    /// The file for the emulator's own messages.
    pub(crate) log: PathBuf,
    /// The NVDIMM, locked for as long as the machine runs.
    pub(crate) nvdimm: Option<Nvdimm>,
    /// The terminal that the emulator wants for its standard streams.
    pub(crate) terminal: Option<Terminal>,
    /// How long it may take until it starts CMD.
    pub(crate) boot_limit: Duration,
    /// How long output may take to arrive after CMD has ended, and the machine to power off after that.
    pub(crate) end_limit: Duration,
}

/// A running machine.
pub(crate) struct Machine {
    emulator: Child,
    events: Receiver<Event>,
    /// Of output and error, those that have not ended.
    streams_open: usize,
    /// Open until the end: QEMU drops what it has not passed on when our end closes.
    input: Option<UnixStream>,
    started: Instant,
    console: PathBuf,
    log: PathBuf,
    nvdimm: Option<Nvdimm>,
    boot_limit: Duration,
    end_limit: Duration,
}

#[derive(Debug)]
enum Event {
    /// The machine has booted and starts CMD.
    Ready,
    /// CMD ended so.
    Status(u8),
    /// guest/init cannot go on.
    Failed(String),
    /// A stream has ended, with its mark or because the machine is gone.
    Drained,
    /// The control stream has ended: the machine is gone.
    Gone,
    /// Our own output cannot be written any more.
    OutputLost(io::Error),
    /// CMD printed the marker of `--power-cut`.
    Marker,
    /// We got a signal.
    Signal(u8),
}

/// A line that CMD cannot print by accident.
pub(crate) fn new_end_mark() -> Result<String> {
    let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("cannot get a random number")?;
    Ok(format!("[testbed end {}]", random.trim()))
}

impl Machine {
    /// Starts the emulator and the threads that copy its streams.
    pub(crate) fn start(plan: Plan, arguments: &Arguments) -> Result<Machine> {
        let Plan {
            mut command,
            control,
            output,
            error,
            input,
            emulator_ends,
            end_mark,
            console,
            log,
            nvdimm,
            terminal,
            boot_limit,
            end_limit,
        } = plan;
        let (sender, events) = channel();
        // Before the emulator starts: a signal from here on must not end us without it.
        let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
        let log_file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command.process_group(0).stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let started = Instant::now();
        let emulator = match terminal {
            Some(terminal) => terminal.spawn(command),
            None => command.spawn(),
        };
        let emulator = emulator.context("cannot start the emulator through setpriv (package util-linux)")?;
        drop(emulator_ends);
        let machine = Machine {
            emulator,
            events,
            streams_open: 2,
            input,
            started,
            console,
            log,
            nvdimm,
            boot_limit,
            end_limit,
        };

        let watch = || match &arguments.power_cut {
            Some(PowerCut::Marker(text)) => Some(LineWatch::new(text)),
            _ => None,
        };
        let (for_signals, for_control) = (sender.clone(), sender.clone());
        thread::spawn(move || report_signals(signals, &for_signals));
        thread::spawn(move || read_control(control, &for_control));
        for (from, to) in
            [(output, Box::new(io::stdout()) as Box<dyn Write + Send>), (error, Box::new(io::stderr()))]
        {
            let (watch, end, sender) = (watch(), EndMark::new(&end_mark), sender.clone());
            thread::spawn(move || copy_output(from, to, end, watch, &sender));
        }
        if let Some(input) = &machine.input {
            let input = input.try_clone().context("cannot keep CMD's input open")?;
            thread::spawn(move || copy_input(input));
        }
        Ok(machine)
    }

    /// Waits for the end, whichever it is; returns the exit status it means for us.
    pub(crate) fn supervise(&mut self, arguments: &Arguments) -> Result<u8> {
        let end = self.started + arguments.timeout;
        let mut limit = end.min(self.started + self.boot_limit);
        let mut running = false;
        let mut cut_at = None;
        let mut status = None;
        loop {
            if let Some(number) = status
                && self.streams_open == 0
            {
                self.wait_for_power_off(end);
                return Ok(number);
            }
            let now = Instant::now();
            if cut_at.is_some_and(|at| now >= at) {
                return Ok(self.cut_power());
            }
            if now >= limit {
                self.kill();
                self.drain();
                if status.is_some() {
                    bail!("CMD ended, but its output did not arrive within {} s", self.end_limit.as_secs());
                }
                if limit < end {
                    bail!(
                        "the machine did not boot within {} s{}",
                        self.boot_limit.as_secs(),
                        self.last_words()
                    );
                }
                let state = if running { "CMD is still running" } else { "the machine is still booting" };
                let (seconds, words) = (arguments.timeout.as_secs(), self.last_words());
                eprintln!("testbed: {state} after {seconds} s: ended by --timeout{words}");
                return Ok(EXIT_TIMEOUT);
            }
            let next = cut_at.unwrap_or(limit).min(limit);
            match self.events.recv_timeout(next.duration_since(now)) {
                Ok(Event::Ready) => {
                    running = true;
                    limit = end;
                    if let Some(nvdimm) = &mut self.nvdimm {
                        nvdimm.formatted()?;
                    }
                    if let Some(PowerCut::After(time)) = &arguments.power_cut {
                        cut_at = Some(Instant::now() + *time);
                    }
                }
                Ok(Event::Status(number)) => {
                    status = Some(number);
                    limit = end.min(Instant::now() + self.end_limit);
                }
                Ok(Event::Drained) => self.streams_open -= 1,
                Ok(Event::Marker) => return Ok(self.cut_power()),
                Ok(Event::Failed(reason)) => bail!("{reason}{}", self.last_words()),
                Ok(Event::Gone) if status.is_none() => {
                    self.drain();
                    bail!("the machine stopped before CMD ended{}", self.last_words());
                }
                Ok(Event::OutputLost(error)) => return Err(error).context("cannot write CMD's output"),
                Ok(Event::Signal(number)) => {
                    self.kill();
                    return Ok(128 + number);
                }
                Ok(Event::Gone) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("internal: all threads ended"),
            }
        }
    }

    fn cut_power(&mut self) -> u8 {
        self.kill();
        self.drain();
        eprintln!("testbed: power cut");
        EXIT_POWER_CUT
    }

    /// After the machine's end: lets what it had already sent come out.
    fn drain(&mut self) {
        let limit = Instant::now() + DRAIN_LIMIT;
        while self.streams_open > 0 {
            match self.events.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(Event::Drained) => self.streams_open -= 1,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// CMD has ended and guest/init powers off: the persistent memory's drivers shut down in order.
    fn wait_for_power_off(&mut self, end: Instant) {
        let limit = end.min(Instant::now() + self.end_limit);
        while Instant::now() < limit {
            match self.emulator.try_wait() {
                Ok(None) => thread::sleep(CHECK_INTERVAL),
                _ => return,
            }
        }
    }

    /// Ends the emulator with all it started.
    fn kill(&mut self) {
        // The group has the emulator's number as long as we have not waited for the emulator.
        if let (Ok(None), Ok(id)) = (self.emulator.try_wait(), i32::try_from(self.emulator.id()))
            && let Some(group) = Pid::from_raw(id)
        {
            // Fails only if the group is gone already.
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.emulator.wait();
        }
    }

    /// The ends of the kernel's console and of the emulator's messages, to be shown below an error.
    fn last_words(&self) -> String {
        let mut text = String::new();
        for (title, path) in [("the emulator's messages", &self.log), ("the kernel's console", &self.console)]
        {
            let bytes = fs::read(path).unwrap_or_default();
            let all = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> =
                all.lines().filter(|line| !line.contains("warning: TCG doesn't support")).collect();
            if !lines.is_empty() {
                text += &format!("\n  last lines of {title}:");
            }
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                text += &format!("\n    {}", line.trim_end());
            }
        }
        text
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn report_signals(mut signals: Signals, events: &Sender<Event>) {
    for signal in signals.forever() {
        let number = u8::try_from(signal).unwrap_or(0);
        if events.send(Event::Signal(number)).is_err() {
            return;
        }
    }
}

fn read_control(from: Box<dyn Read + Send>, events: &Sender<Event>) {
    for line in BufReader::new(from).lines() {
        let Ok(line) = line else { break };
        let event = match line.trim_end().split_once(' ') {
            None if line.trim_end() == "ready" => Event::Ready,
            Some(("status", number)) => match number.parse() {
                Ok(number) => Event::Status(number),
                Err(_) => Event::Failed(format!("the machine says status {number}")),
            },
            Some(("fail", reason)) => Event::Failed(reason.to_owned()),
            _ => Event::Failed(format!("the machine says {line:?}")),
        };
        // An error means that nobody waits any more.
        let _ = events.send(event);
    }
    let _ = events.send(Event::Gone);
}

fn copy_output(
    mut from: Box<dyn Read + Send>,
    mut to: Box<dyn Write + Send>,
    mut end: EndMark,
    mut watch: Option<LineWatch>,
    events: &Sender<Event>,
) {
    let mut buffer = vec![0; 64 << 10];
    while !end.ended() {
        // A reset connection is the machine's end just like a closed one.
        let length = from.read(&mut buffer).unwrap_or(0);
        let bytes = if length == 0 { end.rest() } else { end.take(&buffer[..length]) };
        let seen = watch.as_mut().is_some_and(|watch| watch.take(&bytes));
        if let Err(error) = to.write_all(&bytes).and_then(|()| to.flush()) {
            let _ = events.send(Event::OutputLost(error));
            return;
        }
        if seen {
            let _ = events.send(Event::Marker);
        }
        if length == 0 {
            break;
        }
    }
    let _ = events.send(Event::Drained);
}

fn copy_input(mut to: UnixStream) {
    // Either end may go away at any time: then there is nothing more to copy.
    let _ = io::copy(&mut io::stdin(), &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
