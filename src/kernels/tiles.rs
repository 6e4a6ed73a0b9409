//! AMX: eight registers of 16 rows of 64 bytes ("tiles"), and products of two of them.
//!
//! Rust has no stable intrinsics for them, so each function here is a few instructions of inline assembly. The compiler
//! never uses tiles by itself, so what one function leaves in them is there for the next one.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

/// Rows of a tile, and 32-bit elements of a row.
pub(crate) const SIDE: usize = 16;
/// Bytes of a row.
pub(crate) const ROW_BYTES: usize = 64;

/// Whether the CPU has AMX-TILE, AMX-INT8 and AMX-BF16, and the operating system lets this process use them. It is
/// asked once; the answer holds for all threads.
pub(crate) fn are_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_features() && are_saved() && permission())
}

/// CPUID leaf 7: AMX-BF16, AMX-TILE and AMX-INT8.
fn has_features() -> bool {
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & FEATURES == FEATURES
}

/// Whether the operating system saves tiles when it switches between threads: bits 17 and 18 of XCR0, which can be read
/// when bit 27 of CPUID leaf 1 says so.
fn are_saved() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES: u32 = 1 << 17 | 1 << 18;
    if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
        return false;
    }
    let xcr0: u32;
    // SAFETY: with OSXSAVE the instruction exists; it reads XCR0 into edx and eax.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") xcr0, out("edx") _, options(nomem, nostack, preserves_flags)) };
    xcr0 & TILES == TILES
}

/// Linux gives tiles to processes that ask, as they make the state of a thread 8 KiB larger.
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call changes nothing but what this process may use; kernels without it give an error.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles in use by this thread; given back when dropped.
pub(crate) struct Tiles(());

impl Tiles {
    /// Shapes all tiles: rows of 64 bytes, `height` rows (1 to 16) in tiles 0 to 5 and 16 in tiles 6 and 7, which hold
    /// the right factor.
    ///
    /// # Safety
    /// [`are_available`].
    #[inline]
    pub(crate) unsafe fn configure(height: usize) -> Self {
        assert!((1..=SIDE).contains(&height));
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(ROW_BYTES as u16);
        rows[..6].fill(height as u8);
        rows[6..8].fill(SIDE as u8);
        let configuration = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the caller promises the instruction; the shapes lie within palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(readonly, nostack, preserves_flags)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: a value proves that `configure` was promised the instructions.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Tiles 0 to 3 become 0.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(crate) unsafe fn zero() {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// Adds to tiles 0 to 3 the products of two left tiles of u8 (rows `stride` bytes apart) and two right ones of s8
/// (rows of 64 bytes, one after another): `[a0 b0, a0 b1, a1 b0, a1 b1]`.
///
/// # Safety
/// Tiles are configured, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_2x2(a: [*const u8; 2], stride: usize, b: [*const i8; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a0} + {stride} * 1]",
            "tileloadd tmm6, [{b0} + {row} * 1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row} * 1]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride} * 1]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            a0 = in(reg) a[0], a1 = in(reg) a[1], stride = in(reg) stride,
            b0 = in(reg) b[0], b1 = in(reg) b[1], row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Adds to tiles 0 to 3 the products of one left tile of u8 (rows `stride` bytes apart) and four right ones of s8
/// (rows of 64 bytes, one after another; `b_step` bytes from one tile to the next).
///
/// # Safety
/// Tiles are configured, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_1x4(a: *const u8, stride: usize, b: *const i8, b_step: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a} + {stride} * 1]",
            "tileloadd tmm6, [{b0} + {row} * 1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row} * 1]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm6, [{b2} + {row} * 1]",
            "tdpbusd tmm2, tmm4, tmm6",
            "tileloadd tmm7, [{b3} + {row} * 1]",
            "tdpbusd tmm3, tmm4, tmm7",
            a = in(reg) a, stride = in(reg) stride, row = in(reg) ROW_BYTES,
            b0 = in(reg) b, b1 = in(reg) b.wrapping_add(b_step),
            b2 = in(reg) b.wrapping_add(2 * b_step), b3 = in(reg) b.wrapping_add(3 * b_step),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Adds to tile 0 the product of one left tile of u8 (rows `stride` bytes apart) and one right tile of s8.
///
/// # Safety
/// Tiles are configured, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_1x1(a: *const u8, stride: usize, b: *const i8) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a} + {stride} * 1]",
            "tileloadd tmm6, [{b} + {row} * 1]",
            "tdpbusd tmm0, tmm4, tmm6",
            a = in(reg) a, stride = in(reg) stride, b = in(reg) b, row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm4") _, out("tmm6") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Adds to tiles 0 to 3 the products of four left tiles of bf16 (rows `stride` bytes apart, tiles one after another) and
/// one right tile of pairs of bf16 (rows of 64 bytes, one after another).
///
/// # Safety
/// Tiles are configured for 16 rows, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_bf16_4x1(a: *const u8, stride: usize, b: *const u8) {
    let step = SIDE * stride;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm6, [{b} + {row} * 1]",
            "tileloadd tmm4, [{a0} + {stride} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{a1} + {stride} * 1]",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "tileloadd tmm4, [{a2} + {stride} * 1]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tileloadd tmm5, [{a3} + {stride} * 1]",
            "tdpbf16ps tmm3, tmm5, tmm6",
            a0 = in(reg) a, a1 = in(reg) a.wrapping_add(step), a2 = in(reg) a.wrapping_add(2 * step),
            a3 = in(reg) a.wrapping_add(3 * step), stride = in(reg) stride, b = in(reg) b, row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Adds to tiles 0 to 3 the products of two left tiles of bf16 and two right ones of pairs of bf16 (rows of 64 bytes, one
/// after another): `[a0 b0, a0 b1, a1 b0, a1 b1]`.
///
/// # Safety
/// Tiles are configured for 16 rows, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_bf16_2x2(a: [*const u8; 2], b: [*const u8; 2]) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a0} + {row} * 1]",
            "tileloadd tmm6, [{b0} + {row} * 1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {row} * 1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {row} * 1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], b1 = in(reg) b[1], row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Adds to tiles 0 to 3 the four products of a left tile and a right one whose integers are split into bytes: `[high
/// high, high low, low high, low low]`. The high bytes on the left are s8, all others u8; rows are 64 bytes, one after
/// another.
///
/// # Safety
/// Tiles are configured for 16 rows, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn multiply_bytes(a: [*const u8; 2], b: [*const u8; 2]) {
    let ([a_low, a_high], [b_low, b_high]) = (a, b);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm4, [{a_high} + {row} * 1]",
            "tileloadd tmm6, [{b_high} + {row} * 1]",
            "tdpbsud tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b_low} + {row} * 1]",
            "tdpbsud tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a_low} + {row} * 1]",
            "tdpbuud tmm2, tmm5, tmm6",
            "tdpbuud tmm3, tmm5, tmm7",
            a_high = in(reg) a_high, a_low = in(reg) a_low, b_high = in(reg) b_high, b_low = in(reg) b_low,
            row = in(reg) ROW_BYTES,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Writes tiles 0 to 3 to four places, with `stride` bytes from row to row.
///
/// # Safety
/// Tiles are configured, and all rows are writable.
#[inline(always)]
pub(crate) unsafe fn store(to: [*mut i32; 4], stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilestored [{p0} + {stride} * 1], tmm0",
            "tilestored [{p1} + {stride} * 1], tmm1",
            "tilestored [{p2} + {stride} * 1], tmm2",
            "tilestored [{p3} + {stride} * 1], tmm3",
            p0 = in(reg) to[0], p1 = in(reg) to[1], p2 = in(reg) to[2], p3 = in(reg) to[3], stride = in(reg) stride,
            options(nostack, preserves_flags)
        );
    }
}

/// Reads tiles 0 to 3 from four places, with `stride` bytes from row to row.
///
/// # Safety
/// Tiles are configured, and all rows are readable.
#[inline(always)]
pub(crate) unsafe fn load(from: [*mut i32; 4], stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tileloadd tmm0, [{p0} + {stride} * 1]",
            "tileloadd tmm1, [{p1} + {stride} * 1]",
            "tileloadd tmm2, [{p2} + {stride} * 1]",
            "tileloadd tmm3, [{p3} + {stride} * 1]",
            p0 = in(reg) from[0], p1 = in(reg) from[1], p2 = in(reg) from[2], p3 = in(reg) from[3],
            stride = in(reg) stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(readonly, nostack, preserves_flags)
        );
    }
}

/// Multiplies and adds `4 * steps` times 16 x 64 by 64 x 16 integers, all in tiles; they are configured and given back.
///
/// # Safety
/// [`are_available`].
pub(crate) unsafe fn multiply_in_registers(steps: u32) {
    if steps == 0 {
        return;
    }
    let values = [3u8; SIDE * ROW_BYTES];
    // SAFETY: the caller promises tiles; `values` is a whole one.
    unsafe {
        let _tiles = Tiles::configure(SIDE);
        zero();
        asm!(
            "tileloadd tmm4, [{values} + {row} * 1]",
            "tileloadd tmm5, [{values} + {row} * 1]",
            "tileloadd tmm6, [{values} + {row} * 1]",
            "tileloadd tmm7, [{values} + {row} * 1]",
            "2:",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "dec {steps:e}",
            "jnz 2b",
            values = in(reg) values.as_ptr(), row = in(reg) ROW_BYTES, steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(readonly, nostack)
        );
    }
}
