//! An assembler for classic BPF: instructions with labels in, offsets out. Jumps go forward only, as the kernel wants.

use super::Instruction;

/// `BPF_RET | BPF_K`.
pub(super) const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);
/// Returned for a frame that does not pass.
pub(super) const REJECT: u32 = 0;
/// Returned for a frame that passes: take all its bytes.
pub(super) const ACCEPT: u32 = u32::MAX;

const LOAD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const LOAD_WORD_AT_X: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_IND);
const LOAD_HALF_AT_X: u16 = code(libc::BPF_LD | libc::BPF_H | libc::BPF_IND);
const LOAD_BYTE_AT_X: u16 = code(libc::BPF_LD | libc::BPF_B | libc::BPF_IND);
const LOAD_NUMBER: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_IMM);
const LOAD_SCRATCH: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_MEM);
const LOAD_X: u16 = code(libc::BPF_LDX | libc::BPF_W | libc::BPF_MEM);
const STORE: u16 = code(libc::BPF_ST);
const STORE_X: u16 = code(libc::BPF_STX);
const COPY_TO_X: u16 = code(libc::BPF_MISC | libc::BPF_TAX);
const KEEP_BITS: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
const SHIFT_LEFT: u16 = code(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K);
const ADD_X: u16 = code(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X);
const JUMP: u16 = code(libc::BPF_JMP | libc::BPF_JA);
const TEST_EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const TEST_ABOVE: u16 = code(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K);
const TEST_AT_LEAST: u16 = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
const TEST_BITS: u16 = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);

/// The farthest a test can jump.
pub(super) const MAX_TEST_JUMP: usize = u8::MAX as usize;

#[expect(clippy::cast_possible_truncation, reason = "all codes of classic BPF are below 256")]
const fn code(bits: u32) -> u16 {
    bits as u16
}

/// The offset at which the kernel offers what it knows beside the bytes of the frame (`SKF_AD_…`).
pub(super) fn ancillary(what: libc::c_int) -> u32 {
    (libc::SKF_AD_OFF + what).cast_unsigned()
}

/// A place in the program, known when it is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Somewhere in straight code.
    Here(usize),
    /// Where the table with this number starts.
    Table(usize),
    /// The end: the frame passes.
    Accept,
}

#[derive(Clone, Copy)]
enum Line {
    Do { code: u16, k: u32 },
    Test { code: u16, k: u32, yes: Label, no: Label },
    Jump(Label),
}

/// A program under construction.
#[derive(Default)]
pub(super) struct Assembly {
    lines: Vec<Line>,
    here: Vec<Option<usize>>,
    tables: Vec<Option<usize>>,
}

impl Assembly {
    /// A label to be placed later.
    pub(super) fn label(&mut self) -> Label {
        self.here.push(None);
        Label::Here(self.here.len() - 1)
    }

    /// Here is `label`.
    pub(super) fn place(&mut self, label: Label) {
        let at = Some(self.lines.len());
        match label {
            Label::Here(number) => self.here[number] = at,
            Label::Table(number) => {
                if self.tables.len() <= number {
                    self.tables.resize(number + 1, None);
                }
                self.tables[number] = at;
            }
            Label::Accept => {}
        }
    }

    fn instruct(&mut self, code: u16, k: u32) {
        self.lines.push(Line::Do { code, k });
    }

    pub(super) fn load(&mut self, offset: u32) {
        self.instruct(LOAD, offset);
    }
    pub(super) fn load_word_at_x(&mut self, offset: u32) {
        self.instruct(LOAD_WORD_AT_X, offset);
    }
    pub(super) fn load_half_at_x(&mut self, offset: u32) {
        self.instruct(LOAD_HALF_AT_X, offset);
    }
    pub(super) fn load_byte_at_x(&mut self, offset: u32) {
        self.instruct(LOAD_BYTE_AT_X, offset);
    }
    pub(super) fn load_number(&mut self, number: u32) {
        self.instruct(LOAD_NUMBER, number);
    }
    pub(super) fn load_scratch(&mut self, word: u32) {
        self.instruct(LOAD_SCRATCH, word);
    }
    pub(super) fn load_x(&mut self, word: u32) {
        self.instruct(LOAD_X, word);
    }
    pub(super) fn store(&mut self, word: u32) {
        self.instruct(STORE, word);
    }
    pub(super) fn store_x(&mut self, word: u32) {
        self.instruct(STORE_X, word);
    }
    pub(super) fn copy_to_x(&mut self) {
        self.instruct(COPY_TO_X, 0);
    }
    pub(super) fn keep_bits(&mut self, mask: u32) {
        self.instruct(KEEP_BITS, mask);
    }
    pub(super) fn shift_left(&mut self, bits: u32) {
        self.instruct(SHIFT_LEFT, bits);
    }
    pub(super) fn add_x(&mut self) {
        self.instruct(ADD_X, 0);
    }
    pub(super) fn reject(&mut self) {
        self.instruct(RETURN, REJECT);
    }

    /// Goes to `label`, or ends if it is the end.
    pub(super) fn jump(&mut self, label: Label) {
        match label {
            Label::Accept => self.instruct(RETURN, ACCEPT),
            Label::Here(_) | Label::Table(_) => self.lines.push(Line::Jump(label)),
        }
    }

    fn test(&mut self, code: u16, k: u32, yes: Label, no: Label) {
        self.lines.push(Line::Test { code, k, yes, no });
    }

    pub(super) fn test_equal(&mut self, value: u32, yes: Label, no: Label) {
        self.test(TEST_EQUAL, value, yes, no);
    }
    pub(super) fn test_above(&mut self, value: u32, yes: Label, no: Label) {
        self.test(TEST_ABOVE, value, yes, no);
    }
    pub(super) fn test_at_least(&mut self, value: u32, yes: Label, no: Label) {
        self.test(TEST_AT_LEAST, value, yes, no);
    }
    pub(super) fn test_bits(&mut self, mask: u32, yes: Label, no: Label) {
        self.test(TEST_BITS, mask, yes, no);
    }

    pub(super) fn test_any_equal(&mut self, values: &[u32], yes: Label, no: Label) {
        for (place, &value) in values.iter().enumerate() {
            let last = place + 1 == values.len();
            let next = if last { no } else { self.label() };
            self.test_equal(value, yes, next);
            if !last {
                self.place(next);
            }
        }
    }

    /// The program, with offsets for labels.
    pub(super) fn finish(self) -> Vec<Instruction> {
        // All labels are placed, and tests only go to near ones: both are laid down in this module and `search`.
        let distance = |from: usize, label: Label| {
            let to = match label {
                Label::Here(number) => self.here[number],
                Label::Table(number) => self.tables[number],
                Label::Accept => None,
            };
            to.map_or(0, |to| to - from - 1)
        };
        let near = |from, label| u8::try_from(distance(from, label)).unwrap_or(u8::MAX);
        let far = |from, label| u32::try_from(distance(from, label)).unwrap_or(u32::MAX);
        let translate = |(at, line): (usize, &Line)| match *line {
            Line::Do { code, k } => Instruction { code, jt: 0, jf: 0, k },
            Line::Test { code, k, yes, no } => Instruction { code, jt: near(at, yes), jf: near(at, no), k },
            Line::Jump(label) => Instruction { code: JUMP, jt: 0, jf: 0, k: far(at, label) },
        };
        self.lines.iter().enumerate().map(translate).collect()
    }
}
