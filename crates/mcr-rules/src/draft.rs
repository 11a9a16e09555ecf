//! A configuration any part of which may be missing because it can't be read.
//!
//! The file's reader fills drafts, the checks run on them, and a draft that nothing is missing from becomes the typed value.
//! So one mistake in a rule does not hide the others.

use std::net::IpAddr;

use crate::config::Config;
use crate::merge::{MergeBy, MergeOptions, MergeOrder};
use crate::name::{InterfaceName, RuleName};
use crate::options::{InputOptions, OutputOptions, RuleOptions};
use crate::path::Path;
use crate::rule::{Input, Merge, Output, Rule};
use crate::settings::{EngineChoice, Settings};

/// A configuration. Positions in the lists are those of the file.
#[derive(Default)]
pub(crate) struct ConfigDraft {
    pub(crate) pinning: Vec<(InterfaceName, Vec<Option<u16>>)>,
    pub(crate) rules: Vec<RuleDraft>,
    pub(crate) settings: Settings,
}

/// A rule.
#[derive(Default)]
pub(crate) struct RuleDraft {
    /// `None` also for a rule without name.
    pub(crate) name: Option<RuleName>,
    /// The first leg of a merged rule.
    pub(crate) input: InputDraft,
    /// `None` for a rule with one input.
    pub(crate) merge: Option<MergeDraft>,
    /// `None` if there is no list of outputs at all.
    pub(crate) outputs: Option<Vec<OutputDraft>>,
    pub(crate) options: OptionsDraft<RuleOptions>,
    /// `None` also for a rule that leaves it to the settings.
    pub(crate) engine: Option<EngineChoice>,
}

/// The further legs of a merged rule, and how they are merged.
pub(crate) struct MergeDraft {
    pub(crate) more: Vec<InputDraft>,
    pub(crate) by: Option<MergeBy>,
    pub(crate) window_ms: u16,
    pub(crate) order: MergeOrder,
    /// All keys that are given can be read.
    pub(crate) complete: bool,
}

/// The options of a rule or an output.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OptionsDraft<O> {
    /// Options that can't be read have their default.
    pub(crate) read: O,
    /// All of them can be read.
    pub(crate) complete: bool,
}

/// An input.
#[derive(Default)]
pub(crate) struct InputDraft {
    pub(crate) interface: Option<InterfaceName>,
    pub(crate) group: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    /// In the order of the file. `None` if it is not a list.
    pub(crate) sources: Option<Vec<Option<IpAddr>>>,
    pub(crate) options: OptionsDraft<InputOptions>,
}

/// An output.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OutputDraft {
    pub(crate) interface: Option<InterfaceName>,
    pub(crate) group: Option<IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) options: OptionsDraft<OutputOptions>,
}

/// Interface, group and port: where datagrams arrive, or are sent to.
pub(crate) type Endpoint<'a> = (&'a InterfaceName, IpAddr, u16);

impl ConfigDraft {
    pub(crate) fn of(config: &Config) -> Self {
        let cores = |cores: &Vec<u16>| cores.iter().copied().map(Some).collect();
        Self {
            pinning: config
                .pinning
                .iter()
                .map(|(interface, list)| (interface.clone(), cores(list)))
                .collect(),
            rules: config.rules.iter().map(RuleDraft::of).collect(),
            settings: config.settings.clone(),
        }
    }

    /// The configuration, if nothing is missing.
    pub(crate) fn finish(self) -> Option<Config> {
        Some(Config {
            pinning: self
                .pinning
                .into_iter()
                .map(|(interface, cores)| Some((interface, cores.into_iter().collect::<Option<_>>()?)))
                .collect::<Option<_>>()?,
            rules: self.rules.into_iter().map(RuleDraft::finish).collect::<Option<_>>()?,
            settings: self.settings,
        })
    }
}

impl RuleDraft {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self {
            name: rule.name.clone(),
            input: InputDraft::of(&rule.input),
            merge: rule.merge.as_ref().map(|merge| MergeDraft {
                more: merge.more.iter().map(InputDraft::of).collect(),
                by: Some(merge.options.by),
                window_ms: merge.options.window_ms,
                order: merge.options.order,
                complete: true,
            }),
            outputs: Some(rule.outputs.iter().map(OutputDraft::of).collect()),
            options: rule.options.into(),
            engine: rule.engine,
        }
    }

    /// The rule, if nothing is missing.
    pub(crate) fn finish(self) -> Option<Rule> {
        let outputs = self.outputs?.into_iter().map(OutputDraft::finish).collect::<Option<_>>()?;
        let merge = match self.merge {
            None => None,
            Some(draft) => Some(draft.finish()?),
        };
        let input = self.input.whole()?;
        Some(Rule {
            name: self.name,
            input,
            merge,
            outputs,
            options: self.options.finish()?,
            engine: self.engine,
        })
    }

    /// The input, or the legs.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &InputDraft> {
        std::iter::once(&self.input).chain(self.merge.iter().flat_map(|merge| &merge.more))
    }

    /// The legs with the path of each.
    pub(crate) fn for_each_input(&self, path: &Path<'_>, mut work: impl FnMut(&InputDraft, &Path<'_>)) {
        match &self.merge {
            None => work(&self.input, &path.key("input")),
            Some(_) => {
                let path = path.key("inputs");
                self.inputs().enumerate().for_each(|(index, input)| work(input, &path.index(index)));
            }
        }
    }

    /// The outputs with their positions.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (usize, &OutputDraft)> {
        self.outputs.iter().flatten().enumerate()
    }
}

impl<O> From<O> for OptionsDraft<O> {
    fn from(read: O) -> Self {
        Self { read, complete: true }
    }
}

impl<O> OptionsDraft<O> {
    fn finish(self) -> Option<O> {
        self.complete.then_some(self.read)
    }
}

impl MergeDraft {
    fn finish(self) -> Option<Merge> {
        let Self { more, by, window_ms, order, complete } = self;
        let options = MergeOptions { by: by.filter(|_| complete)?, window_ms, order };
        let more = more.iter().map(InputDraft::whole).collect::<Option<_>>()?;
        Some(Merge { more, options })
    }
}

impl InputDraft {
    fn of(input: &Input) -> Self {
        Self {
            interface: Some(input.interface.clone()),
            group: Some(input.group),
            port: Some(input.port),
            sources: Some(input.sources.iter().copied().map(Some).collect()),
            options: input.options.into(),
        }
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint<'_>> {
        Some((self.interface.as_ref()?, self.group?, self.port?))
    }

    /// The input with its sources sorted and unique, if nothing is missing.
    pub(crate) fn whole(&self) -> Option<Input> {
        let (interface, group, port) = self.endpoint()?;
        let mut sources: Vec<IpAddr> = self.sources.as_ref()?.iter().copied().collect::<Option<_>>()?;
        sources.sort_unstable();
        sources.dedup();
        let options = self.options.complete.then_some(self.options.read)?;
        Some(Input { interface: interface.clone(), group, port, sources, options })
    }
}

impl OutputDraft {
    fn of(output: &Output) -> Self {
        Self {
            interface: Some(output.interface.clone()),
            group: Some(output.group),
            port: Some(output.port),
            options: output.options.into(),
        }
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint<'_>> {
        Some((self.interface.as_ref()?, self.group?, self.port?))
    }

    /// Whether nothing is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.endpoint().is_some() && self.options.complete
    }

    fn finish(self) -> Option<Output> {
        Some(Output {
            interface: self.interface?,
            group: self.group?,
            port: self.port?,
            options: self.options.finish()?,
        })
    }
}
