//! Reads `dialect = "supabase"` of a mount, and the setting that belongs to it.

use bennu_wire::dialect::Dialect;
use toml::Spanned;

use super::amount::MANY;
use super::model::Supabase;
use super::reader::Section;

/// How many messages a request may bring.
const MESSAGES: &str = "max_broadcast_messages";

/// What the mount has for clients of Supabase; `None`: it has another dialect.
pub(super) fn supabase(mount: &Section<'_>, dialect: Dialect) -> Option<Supabase> {
    let is_on = dialect == Dialect::Supabase;
    let is_known = mount.value("dialect").is_none() || dialect != Dialect::Modern;
    let supabase = Supabase {
        max_broadcast_messages: mount.count(MESSAGES, 100, 1..=MANY),
    };
    let longpoll = mount
        .value("longpoll")
        .filter(|value| value.get_ref().as_bool() != Some(false));
    match (is_on, mount.value(MESSAGES), longpoll) {
        (false, Some(value), _) if is_known => {
            let message = format!("`{MESSAGES}` belongs to another dialect");
            let refused = mount.mistakes.error(Spanned::span(value), message);
            let help = "add `dialect = \"supabase\"` to the mount, or remove this setting";
            mount.mistakes.add(refused.help(help));
        }
        (true, _, Some(value)) => {
            let message = "`longpoll` has no effect: clients of Supabase have only WebSocket";
            let idle = mount.mistakes.warning(Spanned::span(value), message);
            mount.mistakes.add(idle.help("remove it"));
        }
        _ => {}
    }
    is_on.then_some(supabase)
}
