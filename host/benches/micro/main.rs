//! How long each piece of what happens to a message takes: `cargo bench --package bennu --bench micro`, and a part of a name
//! to run less.

use divan::counter::ItemsCount;

fn main() {
    divan::main();
}

/// Throughput is in messages.
#[divan::bench(args = bennu::hot::NAMES)]
fn hot_path(bencher: divan::Bencher<'_, '_>, name: &str) {
    let bennu::hot::Path { mut run, before } = bennu::hot::path(name);
    let messages = bennu::hot::messages(name);
    bencher
        .with_inputs(before)
        .input_counter(move |()| ItemsCount::new(messages))
        .bench_local_values(|()| run());
}
