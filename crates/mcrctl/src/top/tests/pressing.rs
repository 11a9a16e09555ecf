//! Keys.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use mcr_control::trace::TraceRecord;

use super::{THEME, press, screen, story, type_text};
use crate::rates::Window;
use crate::top::snapshot::{Answer, Question, Report, Traced};
use crate::top::state::{Over, State, Tab, Wish};

fn selected(state: &State) -> String {
    let (table, _) = state.table();
    state.selected(&table).map(|row| table.rows[row].key.clone()).unwrap_or_default()
}

const VIDEO: &str = "00000000000000a1";
const FEED: &str = "00000000000000a2";
const THIRD: &str = "00000000000000a3";

#[test]
fn the_selection_stays_on_its_rule_when_rows_move() {
    let mut state = story::state(30);
    assert_eq!(selected(&state), VIDEO);
    press(&mut state, KeyCode::Down);
    assert_eq!(selected(&state), FEED);
    for _ in 0..4 {
        type_text(&mut state, "s");
    }
    let (table, _) = state.table();
    assert_eq!(table.columns[3].title, "dgram/s");
    let order = |state: &State| state.table().0.rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>();
    assert_eq!(order(&state), [VIDEO, FEED, THIRD], "from the highest rate");
    type_text(&mut state, "r");
    assert_eq!(order(&state), [THIRD, FEED, VIDEO]);
    assert_eq!(selected(&state), FEED);
    type_text(&mut state, "/vid");
    press(&mut state, KeyCode::Enter);
    assert_eq!((order(&state).len(), selected(&state).as_str()), (1, VIDEO));
    press(&mut state, KeyCode::Esc);
    assert_eq!((order(&state).len(), selected(&state).as_str()), (3, FEED), "it comes back with its row");
    press(&mut state, KeyCode::End);
    assert_eq!(selected(&state), VIDEO);
    press(&mut state, KeyCode::PageUp);
    assert_eq!(selected(&state), THIRD);
}

#[test]
fn a_trace_is_begun_once_and_its_records_are_shown_until_another_rule_is_opened() {
    let mut state = story::state(30);
    press(&mut state, KeyCode::Enter);
    type_text(&mut state, "t");
    let rule = state.to_trace.take().unwrap();
    assert_eq!(rule.to_string(), VIDEO);
    assert!(screen(&state, THEME, (80, 24)).contains("waiting for datagrams"));
    type_text(&mut state, "t");
    assert_eq!(state.to_trace, None, "it is under way");
    let record: TraceRecord = serde_json::from_value(story::trace_record()).unwrap();
    let told = |running| Traced::Received {
        records: vec![record.clone()],
        summary: "1 arrivals".to_owned(),
        running,
    };
    state.take(Report::Traced { rule, traced: told(true) });
    let shown = screen(&state, THEME, (80, 24));
    assert!(
        shown.contains("dropped") && shown.contains("too_big") && shown.contains("1 arrivals"),
        "{shown}"
    );
    type_text(&mut state, "t");
    assert_eq!(state.to_trace, None, "it is running");
    state.take(Report::Traced { rule, traced: told(false) });
    type_text(&mut state, "n");
    assert!(!screen(&state, THEME, (80, 24)).contains("Trace"));
    type_text(&mut state, "t");
    assert_eq!(state.to_trace.map(|rule| rule.to_string()).as_deref(), Some(FEED));
}

#[test]
fn sorting_goes_through_all_columns_and_back_to_the_daemons_order() {
    let mut state = story::state(30);
    let columns = state.table().0.columns.len();
    for column in 0..columns {
        type_text(&mut state, "s");
        assert_eq!(state.choice().sort, Some(column));
    }
    type_text(&mut state, "s");
    assert_eq!(state.choice().sort, None);
    type_text(&mut state, "S");
    assert_eq!(state.choice().sort, Some(columns - 1));
}

#[test]
fn pages_are_reached_by_number_and_in_turn() {
    let mut state = story::state(3);
    for (number, tab) in (1..).zip(Tab::ALL) {
        type_text(&mut state, &number.to_string());
        assert_eq!(state.tab, tab);
    }
    press(&mut state, KeyCode::Tab);
    assert_eq!(state.tab, Tab::Rules);
    press(&mut state, KeyCode::BackTab);
    assert_eq!(state.tab, Tab::Events);
    type_text(&mut state, "09");
    assert_eq!(state.tab, Tab::Events);
}

#[test]
fn a_rule_is_opened_from_rules_outputs_and_events_and_from_nothing_else() {
    for tab in Tab::ALL {
        let mut state = story::state(30);
        state.tab = tab;
        // In the log, the third event is about a rule.
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Enter);
        let opened = matches!(state.over, Over::Detail { .. });
        assert_eq!(opened, matches!(tab, Tab::Rules | Tab::Outputs | Tab::Events), "{tab:?}");
    }
    let mut state = story::state(30);
    press(&mut state, KeyCode::Enter);
    for (key, title) in [
        (KeyCode::Left, "Rule video"),
        (KeyCode::Right, "Rule feed-a"),
        (KeyCode::Right, "Rule 00000000000000a3"),
        (KeyCode::Right, "Rule 00000000000000a3"),
    ] {
        press(&mut state, key);
        let text = screen(&state, THEME, (80, 24));
        assert!(text.contains(title), "{title} is not in\n{text}");
    }
    press(&mut state, KeyCode::Esc);
    assert_eq!((state.over, selected(&state).as_str()), (Over::Nothing, THIRD));
}

#[test]
fn a_rule_that_is_opened_is_explained() {
    let mut state = story::state(30);
    state.take(story::explained(0));
    assert_eq!(state.answer, None, "nobody asked");
    press(&mut state, KeyCode::Enter);
    let video = VIDEO.parse().unwrap();
    assert_eq!(state.question.take(), Some(Question { rule: video, listen: false }));
    type_text(&mut state, "ee");
    assert_eq!(state.question.take(), Some(Question { rule: video, listen: true }));
    type_text(&mut state, "e");
    assert_eq!(state.question.take(), None, "it is being asked already");
    assert!(screen(&state, THEME, (80, 40)).contains("(listening)"));
    state.take(story::explained(2_000));
    let text = screen(&state, THEME, (80, 40));
    assert!(text.contains("impaired: 1,200 datagrams") && text.contains("hint: send smaller"), "{text}");
    press(&mut state, KeyCode::Right);
    assert_eq!(state.question.take(), Some(Question { rule: FEED.parse().unwrap(), listen: false }));
    state.take(story::explained(0));
    assert!(!screen(&state, THEME, (80, 40)).contains("impaired"), "that was of another rule");
    let answer = Answer::Failed("mcrd is older".to_owned());
    state.take(Report::Explained { rule: FEED.parse().unwrap(), answer });
    assert!(screen(&state, THEME, (80, 40)).contains("mcrd is older"));
}

#[test]
fn a_detail_scrolls_no_further_than_its_end() {
    let mut state = story::state(30);
    press(&mut state, KeyCode::Enter);
    for _ in 0..50 {
        press(&mut state, KeyCode::PageDown);
    }
    let text = screen(&state, THEME, (80, 14));
    assert!(text.contains("no events of this rule yet"), "{text}");
    for _ in 0..50 {
        press(&mut state, KeyCode::PageUp);
    }
    assert!(screen(&state, THEME, (80, 14)).contains("Rule video"));
}

#[test]
fn the_window_is_one_or_ten_seconds_everywhere() {
    let mut state = story::state(30);
    type_text(&mut state, "w");
    assert_eq!(state.window, Window::TenSeconds);
    press(&mut state, KeyCode::Enter);
    assert!(screen(&state, THEME, (80, 24)).contains("rates over 10 s"));
    type_text(&mut state, "w");
    assert_eq!(state.window, Window::Second);
}

#[test]
fn q_and_control_c_leave_but_a_filter_may_contain_a_q() {
    let mut state = story::state(3);
    type_text(&mut state, "/q?1");
    assert_eq!(state.choice().filter, "q?1");
    let control = |character| KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL);
    state.press(control('u'));
    assert_eq!(state.choice().filter, "");
    assert_eq!(state.press(control('c')), Wish::Leave);
    press(&mut state, KeyCode::Esc);
    assert_eq!(state.press(control('l')), Wish::Redraw);
    type_text(&mut state, "?");
    assert_eq!(press(&mut state, KeyCode::Char('q')), Wish::Nothing, "any key leaves the help only");
    assert_eq!(press(&mut state, KeyCode::Char('q')), Wish::Leave);
}

#[test]
fn no_size_and_no_key_is_too_much() {
    let keys = ['s', 'r', 'w', '?', 'x', '3', 'j', 'G', '/', '\u{1b}', '1'];
    let mut state = story::state(12);
    for (n, key) in keys.iter().cycle().take(200).enumerate() {
        press(&mut state, if *key == '\u{1b}' { KeyCode::Esc } else { KeyCode::Char(*key) });
        press(&mut state, if n % 7 == 0 { KeyCode::Enter } else { KeyCode::Tab });
        for size in [(1, 1), (40, 8), (41, 9), (59, 11), (80, 24), (300, 100), (5, 100), (300, 3)] {
            screen(&state, THEME, size);
        }
    }
}
