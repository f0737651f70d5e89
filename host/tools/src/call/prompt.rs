//! The prompt: an editable line with history. What arrives is printed above it.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter as _};
use tokio::sync::mpsc;

use super::conversation::{Conversation, Order};
use crate::terminal::{FAINT, Modes, has_colours, say, styled};

/// How many lines of history to keep.
const HISTORY: usize = 1_000;
const HELP: &str =
    "type an event and its payload, such as new_msg {\"body\": \"hi\"}; arrow keys recall lines, /quit or Ctrl-D ends";

/// Starts a thread that reads lines, and prints the conversation above the prompt. When the conversation ends, it
/// restores the terminal, even while the thread is still reading.
pub(super) fn start(orders: mpsc::UnboundedSender<Order>, conversation: &mut Conversation) -> anyhow::Result<()> {
    conversation.modes = Some(Modes::keep()?);
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY)?
        .auto_add_history(true)
        .build();
    let mut editor = DefaultEditor::with_config(config)?;
    let file = history_file();
    if let Some(file) = &file {
        // The first time, there is none.
        let _ = editor.load_history(file);
    }
    let mut printer = editor.create_external_printer()?;
    let colours = has_colours(&std::io::stdout());
    conversation.out = Box::new(move |line| {
        let line = if colours {
            line.to_owned()
        } else {
            anstream::adapter::strip_str(line).to_string()
        };
        // It fails once the prompt is gone. Then nobody reads.
        let _ = printer.print(format!("{line}\n"));
    });
    say(&styled(FAINT, HELP));
    let prompt = format!("{}> ", conversation.topic());
    std::thread::Builder::new().name("prompt".into()).spawn(move || {
        loop {
            let order = match editor.readline(&prompt) {
                Ok(line) => Order::parse(&line),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Some(Order::Quit),
                Err(error) => {
                    say(&format!("cannot read from the terminal: {error}"));
                    Some(Order::Quit)
                }
            };
            let quits = order == Some(Order::Quit);
            if let Some(file) = &file {
                // The prompt works without history, too.
                let _ = editor.append_history(file);
            }
            if order.is_some_and(|order| orders.send(order).is_err()) || quits {
                return;
            }
        }
    })?;
    Ok(())
}

/// `bennu/call_history` in the user's state directory.
fn history_file() -> Option<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = set("XDG_STATE_HOME")
        .or_else(|| Some(set("HOME")?.join(".local/state")))?
        .join("bennu");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("call_history"))
}
