//! Components made of others: the same with another digest, with a call that costs more, or with much
//! more code. Each gets sections behind its own, so no compiler of guests is needed. Pure.

use anyhow::{Context as _, Result};

/// Sections of a component.
const SECTION_CUSTOM: u8 = 0;
const SECTION_MODULE: u8 = 1;
const SECTION_CORE_INSTANCE: u8 = 2;
/// Magic and version of a module, and as long as those of a component.
const MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";
/// The name of a section that makes a component another one.
const NAME: &[u8] = b"\x0anigh:bench";

/// Operations of a function of a large component, some seven bytes each: small functions make more of an
/// artifact than their bytes.
const STEPS_PER_FUNCTION: usize = 20;
/// Of a hundred bytes that a component grows by so many are code, the others data: then the compiled
/// artifact is to the component what that of Python's interpreter is.
const CODE_PERCENT: usize = 58;
/// Bytes of a page of linear memory.
const PAGE_BYTES: usize = 64 << 10;

/// The same component with a custom section behind it, so that its digest is another.
pub(super) fn variant(component: &[u8], n: usize) -> Vec<u8> {
    [component, &section(SECTION_CUSTOM, &[NAME, n.to_string().as_bytes()].concat())].concat()
}

/// The same component, each instance of which first takes so many steps of arithmetic: a cost that is
/// counted in work and not in time, as whoever shares a core would get time for nothing.
///
/// # Errors
/// It is no component.
pub(super) fn burning(component: &[u8], steps: u32) -> Result<Vec<u8>> {
    let modules = sections(component)?.iter().filter(|id| **id == SECTION_MODULE).count();
    let instance = [&[1, 0][..], &unsigned(modules), &[0]].concat();
    let module = section(SECTION_MODULE, &burner(steps));
    Ok([component, &module, &section(SECTION_CORE_INSTANCE, &instance)].concat())
}

/// The same component with a module behind it that nobody instantiates and that has this many bytes, in
/// about the parts that code and data have in a large interpreter. It is compiled, stored and copied as
/// all of the component is.
pub(super) fn large(component: &[u8], bytes: usize) -> Vec<u8> {
    [component, &section(SECTION_MODULE, &bulk(bytes))].concat()
}

/// A module whose start takes so many steps of a pseudo-random generator.
fn burner(steps: u32) -> Vec<u8> {
    const SHL: u8 = 0x86;
    const SHR: u8 = 0x88;
    let shift = |by: u8, how: u8| [0x20, 1, 0x20, 1, 0x42, by, how, 0x85, 0x21, 1];
    let start = [
        // Two variables: the steps left, and the generator's state.
        &[2, 1, 0x7f, 1, 0x7e, 0x41][..],
        &signed(i64::from(steps)),
        &[0x21, 0, 0x42, 1, 0x21, 1, 0x03, 0x40],
        &shift(13, SHL),
        &shift(7, SHR),
        &shift(17, SHL),
        // One step less, and again unless it was the last; the state is kept, so that it is needed.
        &[0x20, 0, 0x41, 1, 0x6b, 0x22, 0, 0x0d, 0, 0x0b, 0x20, 1, 0x24, 0, 0x0b],
    ]
    .concat();
    [
        &MODULE[..],
        &section(1, &[1, 0x60, 0, 0]),
        &section(3, &[1, 0]),
        &section(6, &[1, 0x7e, 1, 0x42, 0, 0x0b]),
        &section(8, &[0]),
        &section(10, &[&[1][..], &sized(&start)].concat()),
    ]
    .concat()
}

/// A module of so many bytes: functions that differ, and data.
fn bulk(bytes: usize) -> Vec<u8> {
    let mut seed = 1_u32;
    let mut next = move || {
        // Numerical Recipes' generator: the same module in every run.
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed
    };
    let mut bodies = Vec::new();
    let mut functions = 0;
    while bodies.len() < bytes / 100 * CODE_PERCENT {
        bodies.extend(sized(&function(&mut next)));
        functions += 1;
    }
    let data: Vec<u8> =
        (0..bytes.saturating_sub(bodies.len())).map(|_| next().to_be_bytes()[0]).collect();
    let pages = 1 + data.len() / PAGE_BYTES;
    let types = vec![0; functions];
    [
        &MODULE[..],
        &section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f]),
        &section(3, &[&unsigned(functions)[..], &types].concat()),
        &section(5, &[&[1, 0][..], &unsigned(pages)].concat()),
        &section(10, &[&unsigned(functions)[..], &bodies].concat()),
        &section(11, &[&[1, 0, 0x41, 0, 0x0b][..], &sized(&data)].concat()),
    ]
    .concat()
}

/// A function of one number that computes, reads, writes and branches.
fn function(next: &mut impl FnMut() -> u32) -> Vec<u8> {
    const OPERATIONS: [u8; 5] = [0x6a, 0x6b, 0x6c, 0x72, 0x73];
    let mut body = vec![0];
    for step in 0..STEPS_PER_FUNCTION {
        let constant = signed(i64::from(next() & 0xffff));
        match step % 5 {
            // A value of memory, within its first page.
            0 => body
                .extend([&[0x20, 0, 0x41][..], &constant, &[0x71, 0x28, 2, 0, 0x21, 0]].concat()),
            1 => body
                .extend([&[0x20, 0, 0x41][..], &constant, &[0x71, 0x20, 0, 0x36, 2, 0]].concat()),
            2 => body.extend(
                [&[0x20, 0, 0x41][..], &constant, &[0x46, 0x04, 0x40, 0x20, 0, 0x0f, 0x0b]]
                    .concat(),
            ),
            _ => {
                let operation = OPERATIONS[next() as usize % OPERATIONS.len()];
                body.extend([&[0x20, 0, 0x41][..], &constant, &[operation, 0x21, 0]].concat());
            }
        }
    }
    body.extend([0x20, 0, 0x0b]);
    body
}

/// The ids of the outer sections, in their order.
fn sections(component: &[u8]) -> Result<Vec<u8>> {
    let mut rest = component.get(MODULE.len()..).context("it is no component")?;
    let mut ids = Vec::new();
    while let Some((id, behind)) = rest.split_first() {
        ids.push(*id);
        let (mut bytes, mut shift, mut at) = (0_usize, 0, 0);
        loop {
            let byte = *behind.get(at).context("a section is cut")?;
            bytes |=
                usize::from(byte & 0x7f).checked_shl(shift).context("a section is too long")?;
            (shift, at) = (shift + 7, at + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        rest = behind.get(at + bytes..).context("a section is cut")?;
    }
    Ok(ids)
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &sized(content)].concat()
}

/// What has its length before it.
fn sized(content: &[u8]) -> Vec<u8> {
    [&unsigned(content.len())[..], content].concat()
}

/// LEB128, as WebAssembly writes numbers.
fn unsigned(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The same with a sign.
fn signed(mut number: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !(-0x40..0x40).contains(&number) {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8 & 0x7f);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_has_one_section_more_of_the_length_that_it_says() {
        assert_eq!(variant(b"c", 12), b"c\x00\x0d\x0anigh:bench12");
        assert_ne!(variant(b"c", 1), variant(b"c", 2));
    }

    #[test]
    fn numbers_are_written_as_webassembly_does() {
        assert_eq!((unsigned(0x7f), unsigned(0x80)), (vec![0x7f], vec![0x80, 1]));
        assert_eq!((signed(63), signed(64)), (vec![63], vec![0xc0, 0]));
        assert_eq!((signed(-64), signed(624_485)), (vec![0x40], vec![0xe5, 0x8e, 0x26]));
    }

    #[test]
    fn what_burns_instantiates_the_module_behind_the_others() {
        let component = [&b"\0asm\x0d\0\x01\0"[..], &section(1, b"m"), &section(7, &[0; 200])];
        let component = component.concat();
        let made = burning(&component, 7).unwrap();
        assert_eq!(sections(&made).unwrap(), [1, 7, 1, 2]);
        assert!(made.ends_with(&[2, 4, 1, 0, 1, 0]), "{made:?}");
        assert!(sections(&component[..20]).is_err());
    }

    #[test]
    fn a_large_component_has_the_size_that_is_asked_for_and_is_always_the_same() {
        let made = large(b"", 1 << 20);
        assert!((1 << 20..(1 << 20) + (1 << 14)).contains(&made.len()), "{}", made.len());
        assert_eq!(made, large(b"", 1 << 20));
    }
}
