//! How many instructions each piece of what happens to a message takes, which no noise can hide.
//!
//! `cargo bench --package bennu --bench instructions` counts them under valgrind and compares with
//! `host/benches/instructions.txt`; with `-- --keep` it writes that file. Only user space is counted. A piece runs so many
//! times, then twice as many: the difference is what it takes, whatever it takes to prepare it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// More than this above what is kept fails. What takes several threads differs by 6 % from run to run.
const TOLERANCE: f64 = 0.10;
/// So many messages at least are counted.
const MESSAGES: usize = 2_000;
/// Set for the process that is counted: a name, and how often it runs.
const CHILD: &str = "BENNU_BENCH_CHILD";

fn main() -> ExitCode {
    if let Ok(child) = std::env::var(CHILD) {
        run(&child);
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if !has("--bench") {
        return ExitCode::SUCCESS;
    }
    match compare(has("--keep")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(child: &str) {
    let (name, times) = child.split_once(' ').expect("a name and a number");
    let mut path = bennu::hot::path(name);
    for _ in 0..times.parse::<usize>().expect("a number") {
        (path.before)();
        (path.run)();
    }
}

/// Shows every path. False if one takes too many.
fn compare(keep: bool) -> io::Result<bool> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt");
    let kept = read(&std::fs::read_to_string(&file).unwrap_or_default());
    let (mut text, mut good) = (String::new(), true);
    for name in bennu::hot::NAMES {
        let now = count(name)?;
        let _ = writeln!(text, "{name} {now:.0}");
        let before = kept.get(name).copied();
        let change = before.map_or(0.0, |before| now / before - 1.0);
        let worse = change > TOLERANCE;
        good &= !worse;
        let before = before.map_or_else(|| "-".to_owned(), |before| format!("{before:.0}"));
        let mark = if worse { "  TOO MANY" } else { "" };
        let percent = change * 100.0;
        writeln!(
            io::stdout(),
            "{name:<20} {now:>9.0} instructions a message, {before:>9} before ({percent:+.1} %){mark}"
        )?;
    }
    if keep {
        std::fs::write(file, text)?;
        return Ok(true);
    }
    Ok(good)
}

fn read(text: &str) -> BTreeMap<String, f64> {
    let line = |line: &str| {
        let (name, count) = line.split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Instructions for one message.
fn count(name: &str) -> io::Result<f64> {
    let messages = bennu::hot::messages(name);
    let runs = MESSAGES.div_ceil(messages);
    let (once, twice) = (total(name, runs)?, total(name, 2 * runs)?);
    Ok((twice - once) / (runs * messages) as f64)
}

/// Of a whole process that runs the path so many times.
fn total(name: &str, runs: usize) -> io::Result<f64> {
    let out = out_file();
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .env(CHILD, format!("{name} {runs}"))
        .status()
        .map_err(|error| io::Error::other(format!("valgrind does not run, install it: {error}")))?;
    if !status.success() {
        return Err(io::Error::other(format!("{name} fails under valgrind")));
    }
    let profile = std::fs::read_to_string(&out)?;
    std::fs::remove_file(out)?;
    let line = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    let total = line.and_then(|line| line.trim().parse().ok());
    total.ok_or_else(|| io::Error::other("valgrind counted nothing"))
}

fn out_file() -> PathBuf {
    std::env::temp_dir().join(format!("bennu-instructions-{}", std::process::id()))
}
