//! The plugin to copy: answers `echo` with what it was sent, and `shout`s it to everyone on the topic.

use bennu_plugin::prelude::*;

#[derive(Serialize, Deserialize)]
struct Echo;

impl Channel for Echo {
    type Shared = ();

    fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => return Ok(Reply::ok_with(payload)),
            "shout" => cx.broadcast("shout", payload),
            _ => return Ok(Reply::unhandled()),
        }
        Ok(Reply::none())
    }
}

export_plugin!(Echo);
