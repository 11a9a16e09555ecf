//! The committed screens, and the one that the manual shows. `cargo xtask manuals` writes them.

use mcr_manual::Committed;
use ratatui::crossterm::event::KeyCode;

use super::{THEME, press, screen, story, type_text};
use crate::top::state::{State, Tab};
use crate::top::theme::Theme;

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (120, 40);

#[track_caller]
fn assert_screen(name: &str, text: String) {
    Committed::file(format!("crates/mcrctl/src/top/screens/{name}.txt"), text).assert_current();
}

#[test]
fn every_page_at_both_sizes() {
    for (size, name) in [(SMALL, "80x24"), (LARGE, "120x40")] {
        let mut state = story::state(30);
        for tab in Tab::ALL {
            assert_eq!(state.tab, tab);
            let page = tab.title().to_lowercase();
            assert_screen(&format!("{page}_{name}"), screen(&state, THEME, size));
            press(&mut state, KeyCode::Tab);
        }
        press(&mut state, KeyCode::Enter);
        state.take(story::explained(0));
        assert_screen(&format!("detail_{name}"), screen(&state, THEME, size));
        type_text(&mut state, "?");
        assert_screen(&format!("help_{name}"), screen(&state, THEME, size));
    }
}

#[test]
fn the_first_page_otherwise() {
    let plain = Theme { colour: false, unicode: false };
    assert_screen("rules_80x24_ascii", screen(&story::state(30), plain, SMALL));
    assert_screen("rules_60x16", screen(&story::state(30), THEME, (60, 16)));
    assert_screen("too_small_30x5", screen(&story::state(30), THEME, (30, 5)));
    assert_screen("waiting_80x24", screen(&State::default(), THEME, SMALL));
    let mut state = story::state(30);
    state.take(story::lost(31));
    state.take(story::lost(43));
    assert_screen("lost_80x24", screen(&state, THEME, SMALL));
    let mut state = story::state(30);
    type_text(&mut state, "sssss/ETH0");
    assert_screen("filter_80x24", screen(&state, THEME, SMALL));
}

#[test]
fn the_manual_shows_the_first_page() {
    let text = format!("```text\n{}```\n", screen(&story::state(30), THEME, SMALL));
    Committed::part("user_docs/OPERATIONS.md", "top", text).assert_current();
}
