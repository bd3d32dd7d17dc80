//! A long computation that continues where it was: a picture of the Mandelbrot set, in a persistent object.
//!
//!     mandel [WIDTH [HEIGHT [LIMIT]]]
//!
//! Each row is durable before it is counted, and counted before it is announced, so after a power failure the thread begins again with
//! the first row that is missing. The last line of a complete run tells a checksum of the picture, which does not depend on how
//! often the power failed.
#![no_std]
#![no_main]

use pmem::{Native, Pmem};
use twz_rt::abi::program::FREE_SLOT;
use twz_rt::abi::syscall::CreateSpec;
use twz_rt::abi::{ErrorCode, PAGE_BYTES, Rights};
use twz_rt::resume::{self, Resumed};
use twz_rt::{Args, println, syscall, view};

twz_rt::entry!(main);
twz_rt::resume_entry!(go_on);

/// Name of the picture while it is made.
const NAME: &str = "mandel";
/// Most pixels: an object holds them.
const PIXELS_MAX: u64 = 256 << 20;
/// Words of the object's data: width, height, iterations at most, rows that are complete.
const WIDTH: u64 = 0;
const HEIGHT: u64 = 8;
const LIMIT: u64 = 16;
const ROWS_DONE: u64 = 24;
/// Where the pixels begin, 2 bytes each.
const PIXELS: u64 = 64;
/// Longest row.
const WIDTH_MAX: u64 = 4096;
const ROW_BYTES_MAX: usize = 2 * 4096;

/// A picture in the making.
struct Picture {
    memory: Native,
    width: u64,
    height: u64,
    limit: u64,
}

/// Whether an object holds the picture and a pixel the iterations; what stands in the object is asked as what a user wrote.
fn can_be_made(width: u64, height: u64, limit: u64) -> bool {
    (1..=WIDTH_MAX).contains(&width) && height <= PIXELS_MAX / width && limit < 1 << 16
}

fn main(args: Args) -> Result<(), ErrorCode> {
    let number = |index, default| args.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (width, height, limit): (u64, u64, u64) = (number(1, 256), number(2, 256), number(3, 2000));
    if !can_be_made(width, height, limit) {
        return Err(ErrorCode::BadArgument);
    }
    let object = syscall::object_create(&CreateSpec::default())?;
    let base = view::map(FREE_SLOT, object, Rights::READ | Rights::WRITE).ok_or(ErrorCode::BadArgument)?;
    // SAFETY: the slot maps the object, whose data starts on the second page; no reference to it exists.
    let memory = unsafe { Native::new(base.wrapping_add(PAGE_BYTES), PIXELS + 2 * width * height) };
    memory.store(WIDTH, width);
    memory.store(HEIGHT, height);
    memory.store(LIMIT, limit);
    memory.persist(WIDTH, PIXELS);
    syscall::name_set(object, NAME)?;
    // From here on the work is done, whatever happens.
    resume::set(_resume, object, 0)?;
    Picture { memory, width, height, limit }.finish(0)
}

fn go_on(_: Args, resumed: Resumed) -> Result<(), ErrorCode> {
    let base = resumed.state.wrapping_add(PAGE_BYTES);
    // SAFETY: the monitor maps the state object before the thread begins; its head is one page that is always there.
    let head = unsafe { Native::new(base, PIXELS) };
    let (width, height, limit) = (head.load(WIDTH), head.load(HEIGHT), head.load(LIMIT));
    if !can_be_made(width, height, limit) {
        return Err(ErrorCode::BadArgument);
    }
    // SAFETY: as above; the bounds were just checked to lie in an object.
    let memory = unsafe { Native::new(base, PIXELS + 2 * width * height) };
    println!("mandel: goes on at row {} of {height}", memory.load(ROWS_DONE));
    resume::confirm()?;
    Picture { memory, width, height, limit }.finish(resumed.times + 1)
}

impl Picture {
    /// Makes the rows that are missing.
    fn finish(&self, failures: u64) -> Result<(), ErrorCode> {
        let memory = &self.memory;
        let mut row = [0_u8; ROW_BYTES_MAX];
        for y in memory.load(ROWS_DONE)..self.height {
            let bytes = self.compute(y, &mut row);
            let at = PIXELS + y * 2 * self.width;
            memory.write(at, &row[..bytes]);
            // The row before its number.
            memory.persist(at, bytes as u64);
            memory.store(ROWS_DONE, y + 1);
            memory.persist(ROWS_DONE, 8);
            println!("mandel: row {y}");
        }
        let mut sum: u64 = 0xcbf2_9ce4_8422_2325;
        for y in 0..self.height {
            let bytes = 2 * usize::try_from(self.width).unwrap_or(0);
            memory.read(PIXELS + y * 2 * self.width, &mut row[..bytes]);
            sum = row[..bytes]
                .iter()
                .fold(sum, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        }
        println!("mandel: complete after {failures} failures, checksum {sum:016x}");
        let object = syscall::name_get(NAME)?;
        resume::clear()?;
        syscall::object_delete(object)
    }

    /// Computes row `y`; returns its length.
    fn compute(&self, y: u64, row: &mut [u8]) -> usize {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let scale = |value: u64, count: u64, from: f64, span: f64| from + span * value as f64 / count as f64;
        let c_im = scale(y, self.height, -1.25, 2.5);
        let mut bytes = 0;
        for x in 0..self.width {
            let c_re = scale(x, self.width, -2.0, 2.5);
            let (mut re, mut im, mut count) = (0.0_f64, 0.0_f64, 0_u16);
            while u64::from(count) < self.limit && re * re + im * im <= 4.0 {
                (re, im) = (re * re - im * im + c_re, 2.0 * re * im + c_im);
                count += 1;
            }
            row[bytes..bytes + 2].copy_from_slice(&count.to_le_bytes());
            bytes += 2;
        }
        bytes
    }
}
