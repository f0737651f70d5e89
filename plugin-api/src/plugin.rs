//! The plugin's own value: one a generation, shared by its shards.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::payload::read_json;
use crate::wire::SettingsError;

/// What a plugin keeps for all its topics: settings, pools, caches. One value is made for each generation; every callback
/// sees it as [`Context::plugin`](crate::Context::plugin), from all shards at once.
///
/// A settings struct is such a value as it stands: any `Deserialize` type that is `Send + Sync` has this trait. Write it
/// by hand for a type that is made *from* settings.
pub trait Plugin: Send + Sync + Sized + 'static {
    /// What stands under `settings` in the configuration; `{}` where there is nothing. Add
    /// `#[serde(deny_unknown_fields)]` so that a misspelt key is refused. With the feature `schema` and
    /// `#[derive(schemars::JsonSchema)]`, `bennu schema --plugin` says what they are.
    type Settings: DeserializeOwned;

    /// Makes the value. Called once a generation, on its first shard, before anything else.
    ///
    /// # Errors
    ///
    /// The text of an error is logged; the generation is not taken into service.
    fn init(settings: Self::Settings) -> Result<Self, String>;

    /// Checks settings, without any effect outside the process: nothing is opened, written or connected to. Called in
    /// another process, before `init`.
    ///
    /// # Errors
    ///
    /// The text is shown beside the settings.
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

/// The plugin takes no settings: any key is refused.
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
