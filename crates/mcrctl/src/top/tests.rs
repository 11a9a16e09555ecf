//! The screen without a terminal: replies and keys in, characters out.

mod manual;
mod pressing;
pub(super) mod story;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::state::{State, Wish};
use super::theme::Theme;
use super::view;

const THEME: Theme = Theme { colour: true, unicode: true };

/// What a terminal of this size shows.
fn buffer(state: &State, theme: Theme, (width, height): (u16, u16)) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(state, theme, frame.area(), frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

/// The same as text, without the blanks at the ends of lines.
fn screen(state: &State, theme: Theme, size: (u16, u16)) -> String {
    let buffer = buffer(state, theme, size);
    let mut text = String::new();
    for row in buffer.content().chunks(usize::from(size.0)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn press(state: &mut State, code: KeyCode) -> Wish {
    state.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_text(state: &mut State, text: &str) {
    for character in text.chars() {
        assert_eq!(press(state, KeyCode::Char(character)), Wish::Nothing);
    }
}
