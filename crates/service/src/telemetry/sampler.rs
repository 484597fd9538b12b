//! Which traces are recorded, by the names that OpenTelemetry has for it.

use opentelemetry_sdk::trace::Sampler;
use signalbox_protocol::trace::Recording;

use crate::telemetry::TelemetryError;

/// A way to choose traces.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    /// For the library.
    pub(super) sampler: Sampler,
    /// What may be asked of it.
    pub(super) recording: Recording,
}

impl Sampling {
    /// The sampler with this name and argument.
    ///
    /// # Errors
    /// When there is none, or the argument is no share between 0 and 1.
    pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Self, TelemetryError> {
        let (base, parent_based) = match name.strip_prefix("parentbased_") {
            Some(base) => (base, true),
            None => (name, false),
        };
        let sampler = match base {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::TraceIdRatioBased(share(argument)?),
            _ => return Err(TelemetryError::Sampler(name.to_owned())),
        };
        // Also where it takes none, it is asked about those that begin here: a
        // producer marks them by its answer.
        let recording = match (&sampler, parent_based) {
            (Sampler::AlwaysOff, _) | (_, true) => Recording::Sampled,
            (_, false) => Recording::Asked,
        };
        Ok(Self {
            sampler: if parent_based {
                Sampler::ParentBased(Box::new(sampler))
            } else {
                sampler
            },
            recording,
        })
    }
}

fn share(argument: Option<&str>) -> Result<f64, TelemetryError> {
    let text = argument.unwrap_or("1");
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| TelemetryError::SamplerArgument(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arguments_are_those_of_the_specification() {
        let recording = |name| Sampling::parse(name, Some("0.25")).unwrap().recording;
        assert_eq!(recording("parentbased_always_on"), Recording::Sampled);
        assert_eq!(recording("parentbased_always_off"), Recording::Sampled);
        assert_eq!(recording("parentbased_traceidratio"), Recording::Sampled);
        assert_eq!(recording("always_on"), Recording::Asked);
        assert_eq!(recording("traceidratio"), Recording::Asked);
        assert_eq!(recording("always_off"), Recording::Sampled);
        assert!(Sampling::parse("xray", None).is_err());
        assert!(Sampling::parse("traceidratio", None).is_ok());
        for wrong in ["1.5", "-1", "half", "NaN"] {
            let refused = Sampling::parse("parentbased_traceidratio", Some(wrong));
            assert!(refused.unwrap_err().to_string().contains(wrong));
        }
    }
}
