//! The traffic suite: real sockets through the real daemon, in namespaces, every test once for each
//! datapath and judged by the bytes alone. `copy` is the reference; a datapath that differs is wrong.

mod cost;
mod ground;
mod half_close;
mod handover;
mod integrity;
mod limits;
mod order;
mod overlap;
mod pattern;
mod reset;
mod stage;
mod stall;
mod switch;

/// Each named function becomes a module of one test for each datapath.
macro_rules! on_each_datapath {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            fn copy() {
                super::$test("copy");
            }

            #[test]
            fn sockmap() {
                super::$test("sockmap");
            }
        })+
    };
}
use on_each_datapath;
