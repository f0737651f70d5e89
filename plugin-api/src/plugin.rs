//! The plugin's own value: one for each generation, shared by its shards.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::payload::read_json;
use crate::wire::SettingsError;

/// What a plugin keeps for all its topics: settings, pools, caches. Each generation has one value, which all shards share.
/// Callbacks get it from [`Context::plugin`](crate::Context::plugin).
///
/// A settings struct can be that value: every `Deserialize` type that is `Send + Sync` implements this trait. Implement it by hand
/// for a type that is made *from* settings.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// The type of `settings` in the configuration; `{}` if the configuration has none. With `#[serde(deny_unknown_fields)]` a
    /// misspelt key is an error. With the feature `schema` and `#[derive(schemars::JsonSchema)]`, `bennu schema --plugin` shows them.
    type Settings: DeserializeOwned;

    /// Makes the value. The host calls it once for each generation, on the first shard, before any other callback.
    ///
    /// # Errors
    ///
    /// The host logs the text, and does not take the generation into service.
    fn init(settings: Self::Settings) -> Result<Self, String>;

    /// Checks settings. It must have no effect outside the process: it opens nothing, writes nothing, connects to nothing. The host
    /// calls it in another process, before `init`.
    ///
    /// # Errors
    ///
    /// The host shows the text beside the settings.
    fn check(_settings: &Self::Settings) -> Result<(), String> {
        Ok(())
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Plugin for T {
    type Settings = T;

    fn init(settings: T) -> Result<Self, String> {
        Ok(settings)
    }
}

/// The settings of a plugin that takes none: any key is an error.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Reads settings and has the plugin check them.
pub(crate) fn read_settings<P: Plugin>(json: &[u8]) -> Result<P::Settings, SettingsError> {
    let json = if json.is_empty() { b"{}" } else { json };
    let settings: P::Settings = read_json(json).map_err(|error| SettingsError {
        path: error.path,
        message: error.message,
    })?;
    P::check(&settings).map_err(|message| SettingsError {
        path: String::new(),
        message,
    })?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Settings {
        limits: Limits,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Limits {
        history: u32,
    }

    /// Made from settings, unlike the settings structs above.
    struct Hub;

    impl Plugin for Hub {
        type Settings = NoSettings;

        fn init(_: NoSettings) -> Result<Self, String> {
            Ok(Self)
        }

        fn check(_: &NoSettings) -> Result<(), String> {
            Err("no hub today".to_owned())
        }
    }

    #[track_caller]
    fn check<P: Plugin>(json: &str, path: &str, message: &str) {
        let error = read_settings::<P>(json.as_bytes()).err().expect("refused");
        assert_eq!((error.path.as_str(), error.message.as_str()), (path, message));
    }

    #[test]
    fn wrong_settings_are_refused_with_their_place() {
        check::<Settings>(
            r#"{"limits":{"history":-1}}"#,
            "limits.history",
            "invalid value: integer `-1`, expected u32",
        );
        check::<Settings>(r#"{"limits":{}}"#, "limits", "missing field `history`");
        check::<Settings>(
            r#"{"limits":{"histroy":1}}"#,
            "limits.histroy",
            "unknown field `histroy`, expected `history`",
        );
        check::<NoSettings>(r#"{"x":1}"#, "x", "unknown field `x`, there are no fields");
        check::<Hub>("", "", "no hub today");
    }
}
