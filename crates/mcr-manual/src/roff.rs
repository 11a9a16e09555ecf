//! Markdown to a page of the manual (man(7)). Tables become lists of tags, which a terminal of any width can show.

use std::fmt::Write;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Its last line dates the pages.
const CHANGELOG: &str = include_str!("../../../packaging/debian/changelog");

/// The title of a page.
#[derive(Debug, Clone, Copy)]
pub struct PageTitle<'a> {
    /// Its name, such as `mcrd`.
    pub name: &'a str,
    /// Its section, such as `8`.
    pub section: &'a str,
    /// What it is about, in one line.
    pub about: &'a str,
}

/// A page of the manual. Headings of level 1 in the text are omitted: the title replaces them.
#[must_use]
pub fn page(title: PageTitle<'_>, markdown: &str) -> String {
    let PageTitle { name, section, about } = title;
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!(
        ".\\\" Written by cargo xtask manuals.\n.TH {} {section} {} \"mcr {version}\" \"Multicast relay\"\n\
         .SH NAME\n{} \\- {}\n",
        name.to_uppercase(),
        date(),
        escaped(name),
        escaped(about.trim_end_matches('.'))
    );
    let mut page = Page::default();
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        page.take(event);
    }
    out.push_str(&page.out);
    out
}

/// The day of the last release, as YYYY-MM-DD, from a Debian changelog's `Sun, 22 Nov 2026 …`.
fn date() -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let line = CHANGELOG.lines().find(|line| line.starts_with(" -- ")).unwrap_or_default();
    let words: Vec<&str> = line.rsplit_once("  ").unwrap_or_default().1.split_whitespace().collect();
    let [_, day, month, year, ..] = words.as_slice() else { return String::new() };
    format!("{year}-{:02}-{day:0>2}", MONTHS.find(month).unwrap_or_default() / 3 + 1)
}

#[derive(Debug, Default)]
struct Page {
    out: String,
    /// The text that is being collected: of a paragraph, heading, cell or code.
    text: String,
    code: bool,
    in_item: bool,
    title: bool,
    head: Vec<String>,
    cells: Vec<String>,
    in_head: bool,
}

impl Page {
    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.code => self.text.push_str(&code_lines(&text)),
            Event::Text(text) => self.text.push_str(&escaped(&text)),
            Event::Code(text) => {
                let _ = write!(self.text, "\\fB{}\\fR", escaped(&text));
            }
            Event::SoftBreak | Event::HardBreak => self.text.push('\n'),
            _ => {}
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Strong => self.text.push_str("\\fB"),
            Tag::Emphasis => self.text.push_str("\\fI"),
            Tag::Heading { level, .. } => self.title = *level == HeadingLevel::H1,
            Tag::CodeBlock(CodeBlockKind::Fenced(_) | CodeBlockKind::Indented) => self.code = true,
            Tag::Item => self.in_item = true,
            Tag::TableHead => self.in_head = true,
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Strong | TagEnd::Emphasis => self.text.push_str("\\fR"),
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Paragraph if self.in_item => {}
            TagEnd::Paragraph => self.block(".PP\n"),
            TagEnd::Item => {
                self.in_item = false;
                self.block(".IP \\(bu 2\n");
            }
            TagEnd::CodeBlock => {
                self.code = false;
                let code = std::mem::take(&mut self.text);
                let _ = writeln!(self.out, ".PP\n.RS 4\n.nf\n{}\n.fi\n.RE", code.trim_end());
            }
            TagEnd::TableCell => self.cells.push(std::mem::take(&mut self.text)),
            TagEnd::TableHead => {
                self.in_head = false;
                self.head = std::mem::take(&mut self.cells);
            }
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = std::mem::take(&mut self.text);
        if std::mem::take(&mut self.title) {
            return;
        }
        if level == HeadingLevel::H2 {
            let _ = writeln!(self.out, ".SH {}", unformatted(&text).to_uppercase());
        } else {
            let _ = writeln!(self.out, ".SS {}", unformatted(&text));
        }
    }

    fn block(&mut self, before: &str) {
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() {
            // A paragraph is superfluous right behind a heading.
            let after_heading =
                self.out.lines().last().is_none_or(|line| line.starts_with(".SH") || line.starts_with(".SS"));
            if !(before.starts_with(".PP") && after_heading) {
                self.out.push_str(before);
            }
            self.out.push_str(&protected(text.trim()));
            self.out.push('\n');
        }
    }

    /// The first cell is the tag, the last the text, and those between follow the tag in brackets.
    fn row(&mut self) {
        let cells = std::mem::take(&mut self.cells);
        let [tag, between @ .., text] = cells.as_slice() else { return };
        let details: Vec<String> = between
            .iter()
            .zip(self.head.iter().skip(1))
            .filter(|(cell, _)| !cell.is_empty())
            .map(|(cell, head)| match head.as_str() {
                "default" if !cell.contains("\\fIrequired") => format!("default {cell}"),
                _ => cell.clone(),
            })
            .collect();
        let details = if details.is_empty() { String::new() } else { format!("  ({})", details.join("; ")) };
        let _ = writeln!(self.out, ".TP\n{}{details}\n{}", protected(tag), protected(text));
        if text.is_empty() {
            self.out.push_str("\\&\n");
        }
    }
}

/// Escapes what troff would interpret.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga")
}

fn code_lines(text: &str) -> String {
    protected(&escaped(text))
}

/// Escapes lines that troff would take for requests.
fn protected(text: &str) -> String {
    let line = |line: &str| if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Headings are bold by themselves.
fn unformatted(text: &str) -> String {
    text.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(markdown: &str) -> String {
        let title = PageTitle { name: "x", section: "1", about: "a test." };
        let page = page(title, markdown);
        page.split_once("x \\- a test\n").unwrap().1.to_owned()
    }

    #[test]
    fn a_table_is_a_list_of_tags() {
        let text =
            body("| key | value | default | meaning |\n|---|---|---|---|\n| `ttl` | 1-255 | `16` | hops |\n");
        assert_eq!(text, ".TP\n\\fBttl\\fR  (1\\-255; default \\fB16\\fR)\nhops\n");
    }

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(body(".PP is 'no' \\request"), "\\&.PP is \\(aqno\\(aq \\erequest\n");
        assert_eq!(body("```\n.TH\n\\x\n```\n"), ".PP\n.RS 4\n.nf\n\\&.TH\n\\ex\n.fi\n.RE\n");
    }

    #[test]
    fn the_date_is_the_last_releases() {
        let date = date();
        let digits: Vec<usize> = date.split('-').map(str::len).collect();
        assert_eq!(digits, [4, 2, 2], "{date}");
    }
}
