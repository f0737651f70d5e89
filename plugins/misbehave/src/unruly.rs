//! What goes wrong outside of channels: in `check`, in `init`, while the library is loaded, and when the plugin's own value is
//! dropped.

use std::process;
use std::thread;
use std::time::Duration;

use bennu_plugin::prelude::*;

/// Where to misbehave, from the configuration: `settings = { check = "crash" }`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    check: String,
    init: String,
    drop: String,
}

/// The plugin's own value.
pub(crate) struct Unruly {
    drop: String,
}

impl Plugin for Unruly {
    type Settings = Settings;

    fn init(settings: Settings) -> Result<Self, String> {
        misbehave(&settings.init)?;
        Ok(Self { drop: settings.drop })
    }

    fn check(settings: &Settings) -> Result<(), String> {
        misbehave(&settings.check)
    }
}

impl Drop for Unruly {
    fn drop(&mut self) {
        // Nothing takes the error here.
        let _ = misbehave(&self.drop);
    }
}

pub(crate) fn misbehave(how: &str) -> Result<(), String> {
    if let Some(how) = how.strip_prefix("in_thread:") {
        let how = how.to_owned();
        thread::spawn(move || misbehave(&how));
        return Ok(());
    }
    match how {
        "refuse" => return Err("refused on request".to_owned()),
        "refuse_at_length" => return Err("refused\non request\n".repeat(5_000)),
        "panic" => panic!("panics on request"),
        "panic_twice" => {
            let _again = PanicsAgain;
            panic!("panics on request");
        }
        "crash" => crash(),
        "abort" => process::abort(),
        "overflow" => drop(overflow(1)),
        "exit" => process::exit(3),
        "hang" => hang(),
        "wait" => wait(),
        "allocate" => allocate(),
        // Nobody ends it.
        "thread" => drop(thread::spawn(|| {
            loop {
                thread::park();
            }
        })),
        _ => {}
    }
    Ok(())
}

/// Never returns.
pub(crate) fn hang() {
    loop {
        thread::park();
    }
}

/// Does not return before the file is gone that the variable `MISBEHAVE_WAITS_FOR` names.
fn wait() {
    let gate = std::env::var_os("MISBEHAVE_WAITS_FOR").unwrap_or_default();
    while std::path::Path::new(&gate).exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Panics while another panic unwinds, which ends the process.
struct PanicsAgain;

impl Drop for PanicsAgain {
    fn drop(&mut self) {
        panic!("panics while it unwinds");
    }
}

/// Uses up the stack.
#[allow(unconditional_recursion, reason = "the purpose of this function")]
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    overflow(frame[0] + 1) + frame[1]
}

/// Uses up the memory.
fn allocate() {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
    }
}

#[allow(unsafe_code, reason = "it needs a real fault")]
fn crash() {
    // SAFETY: none; the process is to end here.
    unsafe { std::ptr::null_mut::<u8>().write_volatile(1) };
}

/// A slice that is much longer than its memory.
#[allow(unsafe_code, reason = "safe code cannot make such a slice")]
pub(crate) fn too_long() -> &'static [u8] {
    // SAFETY: none; the host must not read it.
    unsafe { std::slice::from_raw_parts(b"{}".as_ptr(), 1 << 40) }
}

/// Runs while the library is loaded, before the host can look at it.
#[cfg(feature = "at_load")]
#[allow(unsafe_code, reason = "constructors have no safe form")]
mod at_load {
    #[used]
    // SAFETY: the dynamic loader calls the functions in this section; this one ignores its arguments.
    #[unsafe(link_section = ".init_array")]
    static AT_LOAD: extern "C" fn() = at_load;

    extern "C" fn at_load() {
        let how = std::env::var("MISBEHAVE_AT_LOAD").unwrap_or_default();
        let _ = super::misbehave(&how);
    }
}
