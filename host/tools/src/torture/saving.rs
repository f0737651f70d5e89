//! Measures the time from a saved source file to a reply of the new code, in `bennu dev`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::TortureError;
use super::cargo::Workspace;
use super::log::LogEvent;
use super::server::{CONFIG, Server, ServerError, bennu};
use crate::client::{Client, Options, Transport};
use crate::numbers::ms;
use crate::plot::{Axis, Chart};

/// The number of saves.
const SAVES: u64 = 20;
/// How long a build may take. The first one builds all dependencies.
const BUILDING: Duration = Duration::from_secs(600);
/// Between two questions to the plugin.
const POLL: Duration = Duration::from_millis(1);
/// The aim for what Bennu adds to the time of the build.
pub(super) const AIM_MS: f64 = 250.0;

/// One save.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Save {
    /// The time of the build, in milliseconds.
    pub(super) build_ms: f64,
    /// The time from the save to the first reply of the new code, in milliseconds.
    pub(super) answer_ms: f64,
}

impl Save {
    /// What Bennu added to the time of the build.
    pub(super) fn added_ms(&self) -> f64 {
        self.answer_ms - self.build_ms
    }
}

/// Runs the part: saves a small plugin again and again, in a temporary workspace that uses the crates of `checkout`.
pub(super) async fn run(checkout: &Workspace, mut progress: impl FnMut(u64)) -> Result<Vec<Save>, TortureError> {
    let folder = tempfile::Builder::new().prefix("bennu-torture-").tempdir()?;
    write_workspace(folder.path(), checkout.root())?;
    let mut command = bennu("dev")?;
    command
        // Without it, `dev` prints lines for people, which have no fields.
        .env("BENNU_LOG", "info")
        // Then only the first run builds the dependencies.
        .env("CARGO_TARGET_DIR", checkout.target().join("bennu-torture-dev"));
    let source = folder.path().join("plugins/saved/src/lib.rs");
    let mut server = Server::spawn(Arc::new(folder), command, BUILDING, None).await?;
    let options = Options::new(server.address, Transport::WebSocket);
    let mut client = Client::connect(&options).await?;
    client.join("saved:1", json!({})).await?;
    let mut saves = Vec::new();
    for number in 1..=SAVES {
        let start = Instant::now();
        fs::write(&source, plugin(number))?;
        while client.call("saved:1", "ask", json!({})).await?.json() != Some(&json!(number)) {
            if start.elapsed() > BUILDING {
                return Err(ServerError::Silent(BUILDING).into());
            }
            tokio::time::sleep(POLL).await;
        }
        let answer_ms = ms(start.elapsed());
        let build_ms = loop {
            if let LogEvent::Built { took } = server.next_event(BUILDING).await? {
                break ms(took);
            }
        };
        saves.push(Save { build_ms, answer_ms });
        progress(number);
    }
    server.stop();
    Ok(saves)
}

fn write_workspace(folder: &Path, checkout: &Path) -> std::io::Result<()> {
    let source = folder.join("plugins/saved/src");
    fs::create_dir_all(&source)?;
    fs::write(source.join("lib.rs"), plugin(0))?;
    // A string in JSON is the same string in TOML.
    let api = json!(checkout.join("plugin-api"));
    fs::write(
        folder.join("plugins/saved/Cargo.toml"),
        format!(
            "[package]\nname = \"saved\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [\"cdylib\"]\n\
             [dependencies]\nbennu-plugin = {{ path = {api} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n"
        ),
    )?;
    fs::write(
        folder.join("Cargo.toml"),
        "[workspace]\nresolver = \"3\"\nmembers = [\"plugins/*\"]\n[profile.dev]\ndebug = \"line-tables-only\"\n",
    )?;
    // The same versions as in the checkout: cargo has downloaded those already.
    fs::copy(checkout.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::write(
        folder.join(CONFIG),
        "[server]\nlisten = \"127.0.0.1:0\"\nstage_dir = \"stage\"\nstate_dir = \"state\"\n\
         [admin]\nlisten = false\n\
         [[mounts]]\npath = \"/socket\"\n\
         [plugins.saved]\n\
         [[routes]]\ntopic = \"saved:*\"\nplugin = \"saved\"\n",
    )
}

fn plugin(number: u64) -> String {
    format!(
        "use bennu_plugin::prelude::*;\n\
         \n\
         #[derive(Serialize, Deserialize)]\n\
         struct Saved;\n\
         \n\
         impl Channel for Saved {{\n\
             type Shared = ();\n\
             fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {{\n\
                 Join::accept(Saved)\n\
             }}\n\
             fn handle_in(&mut self, _: &mut (), _: &str, _: Payload<'_>, _: &mut Context) -> Handled {{\n\
                 Ok(Reply::ok_with(json!({number})))\n\
             }}\n\
         }}\n\
         \n\
         export_plugin!(Saved);\n"
    )
}

/// The times of each save.
pub(super) fn chart(saves: &[Save]) -> Chart {
    let line = |what: fn(&Save) -> f64| {
        let points = saves.iter().enumerate();
        points.map(|(at, save)| (at as f64 + 1.0, what(save))).collect()
    };
    Chart {
        title: "From a saved source file to a reply of the new code".to_owned(),
        x: Axis::linear("saves"),
        y: Axis::linear("ms"),
        lines: vec![
            ("reply".to_owned(), line(|save| save.answer_ms)),
            ("build".to_owned(), line(|save| save.build_ms)),
            ("what Bennu adds".to_owned(), line(Save::added_ms)),
        ],
        aim: Some((AIM_MS, "aim for what Bennu adds".to_owned())),
    }
}
