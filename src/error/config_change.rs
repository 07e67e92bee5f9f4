use std::fmt;

/// What an update of a config has changed: one line for each setting that is another now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ConfigChange {
    /// The settings that differ.
    pub settings: Vec<SettingChange>,
}

/// One setting that is another now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SettingChange {
    /// Its name, as the builder has it.
    pub setting: &'static str,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

impl ConfigChange {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    pub(crate) fn compare<T: PartialEq + fmt::Debug>(
        &mut self,
        setting: &'static str,
        from: &T,
        to: &T,
    ) {
        if from != to {
            self.settings.push(SettingChange {
                setting,
                from: format!("{from:?}"),
                to: format!("{to:?}"),
            });
        }
    }
}

impl fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        for (i, it) in self.settings.iter().enumerate() {
            let then = if i == 0 { "" } else { "; " };
            write!(f, "{then}{}: {} -> {}", it.setting, it.from, it.to)?;
        }
        Ok(())
    }
}

/// Compares two configs, setting by setting.
macro_rules! config_change {
    ($old:expr, $new:expr, $($setting:ident),+ $(,)?) => {{
        let mut change = $crate::error::ConfigChange::default();
        $(change.compare(stringify!($setting), &$old.$setting, &$new.$setting);)+
        change
    }};
}

pub(crate) use config_change;
