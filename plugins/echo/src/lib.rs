//! The plugin to copy: answers `echo` with what it was sent, and `shout`s it to everyone on the topic.
#![forbid(unsafe_code)]

use bennu_plugin::prelude::*;

#[derive(Serialize, Deserialize)]
struct Echo;

impl Channel for Echo {
    type Shared = ();

    fn join(_: &mut (), _: Payload<'_>, _: &mut Context) -> Join<Self> {
        Join::accept(Echo)
    }

    fn handle_in(&mut self, _: &mut (), event: &str, payload: Payload<'_>, cx: &mut Context) -> Handled {
        match event {
            "echo" => Ok(Reply::ok_with(payload)),
            "shout" => {
                cx.broadcast("shout", payload);
                Ok(Reply::none())
            }
            _ => Ok(Reply::unhandled()),
        }
    }
}

export_plugin!(Echo);
