//! Every setting once: type, default, unit, range, documentation. A leaf: it imports nothing of ours.
//!
//! `sections.rs` is the list to read and to extend. [`Settings::load`] reads it from, in rising order: defaults, a TOML
//! file, `OCTET_*` variables, flags. `config/octet.toml` and `docs/configuration.md` are written by `render.rs`.

mod load;
mod render;
mod sections;
mod value;

pub use load::{DEFAULT_FILE, Origin, Problem};
pub use render::{reference_page, template_file};
pub use sections::{
    BatchingSettings, EngineSettings, FeedbackSettings, HubSettings, IsaChoice, LogFormat, LogLevel, OnFailure,
    QualitySettings, ServerSettings, ShadowSettings, TelemetrySettings,
};
pub use value::{Allowed, Setting, Share};

use std::collections::BTreeMap;

use value::{Raw, Section};

/// One model to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSettings {
    /// Name in requests, metrics and logs.
    pub id: String,
    /// A model folder, or a hub id like `org/name`. A bare name was already looked up in `engine.models_dir`.
    pub path: String,
}

/// Every setting of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The HTTP listener and what it accepts.
    pub server: ServerSettings,
    /// The machine.
    pub engine: EngineSettings,
    /// How requests share a run.
    pub batching: BatchingSettings,
    /// What a quantized model must keep.
    pub quality: QualitySettings,
    /// Comparison with the float original.
    pub shadow: ShadowSettings,
    /// Labels for answers.
    pub feedback: FeedbackSettings,
    /// Where models come from.
    pub hub: HubSettings,
    /// Logs.
    pub telemetry: TelemetrySettings,
    /// What is served; the first model that offers a task is the default for it.
    pub models: Vec<ModelSettings>,
    /// Where each value that is not a default came from, by key.
    origins: BTreeMap<String, Origin>,
}

impl Settings {
    fn sections(&self) -> [&dyn Section; 8] {
        [
            &self.server,
            &self.engine,
            &self.batching,
            &self.quality,
            &self.shadow,
            &self.feedback,
            &self.hub,
            &self.telemetry,
        ]
    }

    fn sections_mut(&mut self) -> [&mut dyn Section; 8] {
        [
            &mut self.server,
            &mut self.engine,
            &mut self.batching,
            &mut self.quality,
            &mut self.shadow,
            &mut self.feedback,
            &mut self.hub,
            &mut self.telemetry,
        ]
    }

    /// Every setting in `section.name` form, with its documentation, in the order of the settings file.
    pub fn all() -> Vec<Setting> {
        Settings::default().sections().into_iter().flat_map(|s| s.settings()).collect()
    }

    /// The value of `key` as it stands in a TOML file.
    pub fn get(&self, key: &str) -> Option<String> {
        let (section, field) = key.split_once('.')?;
        self.sections().into_iter().find(|s| s.name() == section)?.get(field)
    }

    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Sets `key`; false when the value has the wrong type or is not allowed.
    fn set(&mut self, key: &str, raw: Raw<'_>, origin: &Origin) -> bool {
        let Some((section, field)) = key.split_once('.') else { return false };
        let known = self.sections_mut().into_iter().find(|s| s.name() == section).is_some_and(|s| s.set(field, raw));
        if known {
            self.origins.insert(key.to_string(), origin.clone());
        }
        known
    }
}
