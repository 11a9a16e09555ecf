//! What the screen is drawn with: colours, or none; Unicode, or plain ASCII.

use ratatui::style::{Color, Modifier, Style};

/// What a piece of text means. Every meaning is in the text as well: colour only makes it quicker to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Warn,
    Bad,
    /// Of little interest: a zero, a rule of the page.
    Dim,
    /// A heading.
    Title,
    /// A key to press, the chosen tab.
    Key,
    Chosen,
}

/// Colours and characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Theme {
    pub colour: bool,
    pub unicode: bool,
}

impl Theme {
    /// How a meaning looks. Only the eight colours that every terminal has, and that its user has chosen.
    pub(super) fn style(self, tone: Tone) -> Style {
        let colour = |colour: Color| if self.colour { Style::new().fg(colour) } else { Style::new() };
        match tone {
            Tone::Plain => Style::new(),
            Tone::Good => colour(Color::Green),
            Tone::Warn => colour(Color::Yellow).add_modifier(Modifier::BOLD),
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Dim => Style::new().add_modifier(Modifier::DIM),
            Tone::Title => Style::new().add_modifier(Modifier::BOLD),
            Tone::Key => colour(Color::Cyan).add_modifier(Modifier::BOLD),
            Tone::Chosen => Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    /// The line of a page's rule.
    pub(super) const fn line(self) -> char {
        if self.unicode { '─' } else { '-' }
    }

    /// Stands where text was cut off.
    pub(super) const fn cut(self) -> char {
        if self.unicode { '…' } else { '~' }
    }

    /// Between two facts.
    pub(super) const fn dot(self) -> &'static str {
        if self.unicode { " · " } else { " | " }
    }

    /// Before the chosen row.
    pub(super) const fn marker(self) -> char {
        if self.unicode { '▸' } else { '>' }
    }

    /// The direction of a sort.
    pub(super) const fn arrow(self, descending: bool) -> char {
        match (self.unicode, descending) {
            (true, true) => '▼',
            (true, false) => '▲',
            (false, true) => 'v',
            (false, false) => '^',
        }
    }

    /// Up and down, for the footer.
    pub(super) const fn up_down(self) -> &'static str {
        if self.unicode { "↑↓" } else { "j k" }
    }

    /// The last samples in `width` characters, newest at the right: a dot for none, and bars up to `full`, or to the
    /// highest of them.
    pub(super) fn sparkline(self, samples: &[f64], full: Option<f64>, width: usize) -> String {
        // The full block is left out, so that the bars of two rows don't touch.
        const UNICODE: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];
        const ASCII: [char; 7] = ['_', '_', '-', '-', '=', '=', '#'];
        let bars = if self.unicode { UNICODE } else { ASCII };
        let nothing = if self.unicode { '·' } else { '.' };
        let shown = samples.get(samples.len().saturating_sub(width)..).unwrap_or_default();
        let full = full.unwrap_or_else(|| shown.iter().copied().fold(0.0, f64::max));
        let bar = |sample: &f64| {
            // Seven thresholds; the lowest bar is for anything above nothing.
            let level = (1..7).filter(|step| *sample > full * f64::from(*step) / 7.0).count();
            if *sample > 0.0 { bars.get(level).copied().unwrap_or(nothing) } else { nothing }
        };
        let blank = width.saturating_sub(shown.len());
        std::iter::repeat_n(' ', blank).chain(shown.iter().map(bar)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_newest_samples_against_the_highest() {
        let theme = Theme { colour: false, unicode: true };
        assert_eq!(theme.sparkline(&[], None, 3), "   ");
        assert_eq!(theme.sparkline(&[0.0, 0.001, 7.0], None, 5), "  ·▁▇");
        assert_eq!(theme.sparkline(&[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], None, 7), "▁▂▃▄▅▆▇");
        assert_eq!(theme.sparkline(&[5.0, 5.0], None, 2), "▇▇");
        assert_eq!(theme.sparkline(&[15.0, 50.0, 120.0], Some(100.0), 3), "▂▄▇");
        let plain = Theme { colour: false, unicode: false };
        assert_eq!(plain.sparkline(&[0.0, 1.0, 7.0], None, 3), "._#");
    }

    #[test]
    fn without_colour_nothing_has_one() {
        let tones =
            [Tone::Plain, Tone::Good, Tone::Warn, Tone::Bad, Tone::Dim, Tone::Title, Tone::Key, Tone::Chosen];
        let theme = Theme { colour: false, unicode: true };
        assert!(tones.iter().all(|tone| theme.style(*tone).fg.is_none() && theme.style(*tone).bg.is_none()));
    }
}
