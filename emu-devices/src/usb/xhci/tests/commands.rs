//! The command ring: what each command needs, and what it says when it has not got it.

use super::super::transfer::ep;
use super::*;

const SLOT_1: u32 = 1 << 24;
const EP_1: u32 = SLOT_1 | 1 << 16;
const EP_3: u32 = SLOT_1 | 3 << 16;

fn slot_state(d: &Driver) -> u32 {
    d.dword(OUTPUT + 12) >> 27
}

#[test]
fn slots() {
    let mut d = Driver::new(vec![keyboard().0]);
    assert_eq!(d.command(kind::NO_OP_COMMAND, 0, 0).0, code::SUCCESS);
    assert_eq!(d.command(50, 0, 0).0, code::TRB_ERROR);
    for command in kind::DISABLE_SLOT..=kind::RESET_DEVICE {
        for slot in [0, 1, 64, 65, 255] {
            let result = d.command(command, INPUT, slot << 24);
            assert_eq!(result.0, code::SLOT_NOT_ENABLED, "{command} {slot}");
        }
    }
    for n in 1..=8 {
        assert_eq!(d.command(kind::ENABLE_SLOT, 0, 0), (code::SUCCESS, n));
    }
    assert_eq!(d.command(kind::ENABLE_SLOT, 0, 0).0, code::NO_SLOTS);
    assert_eq!(d.command(kind::DISABLE_SLOT, 0, 3 << 24).0, code::SUCCESS);
    assert_eq!(d.command(kind::ENABLE_SLOT, 0, 0), (code::SUCCESS, 3));
}

#[test]
fn addresses_and_states() {
    let mut d = Driver::new(vec![keyboard().0]);
    assert_eq!(d.command(kind::ENABLE_SLOT, 0, 0), (code::SUCCESS, 1));
    d.put(ARRAY + 8, &OUTPUT.to_le_bytes());
    let try_address = |d: &mut Driver, block: u32| {
        d.command(kind::ADDRESS_DEVICE, INPUT, SLOT_1 | block << 9)
            .0
    };
    for (port, entry) in [(0, (1, 4)), (17, (1, 4)), (1, (1, 7))] {
        d.input(port, &[entry]);
        assert_eq!(
            try_address(&mut d, 0),
            code::PARAMETER_ERROR,
            "{port} {entry:?}"
        );
    }
    d.input(1, &[(1, 4), (2, 2)]);
    assert_eq!(try_address(&mut d, 0), code::TRB_ERROR, "too much is added");
    d.input(1, &[(1, 4)]);
    assert_eq!(
        try_address(&mut d, 0),
        code::TRANSACTION_ERROR,
        "the port is not enabled"
    );
    d.write(PORTSC, 1 << 4 | 1 << 9);
    assert_eq!(try_address(&mut d, 1), code::SUCCESS);
    assert_eq!((slot_state(&d), d.dword(OUTPUT + 12) & 0xff), (1, 0));
    assert_eq!(try_address(&mut d, 1), code::CONTEXT_STATE_ERROR);
    let result = d.command(kind::CONFIGURE_ENDPOINT, INPUT, SLOT_1);
    assert_eq!(result.0, code::CONTEXT_STATE_ERROR);
    assert_eq!(
        d.command(kind::RESET_DEVICE, 0, SLOT_1).0,
        code::CONTEXT_STATE_ERROR
    );
    assert_eq!(try_address(&mut d, 0), code::SUCCESS);
    assert_eq!((slot_state(&d), d.dword(OUTPUT + 12) & 0xff), (2, 1));
    assert_eq!(
        (d.state(1), d.dword(OUTPUT + 40)),
        (ep::RUNNING, Driver::ring(1) as u32 | 1)
    );
    assert_eq!(try_address(&mut d, 0), code::CONTEXT_STATE_ERROR);
    // A second slot for the same port.
    assert_eq!(d.command(kind::ENABLE_SLOT, 0, 0), (code::SUCCESS, 2));
    d.put(ARRAY + 16, &(OUTPUT + 0x800).to_le_bytes());
    let result = d.command(kind::ADDRESS_DEVICE, INPUT, 2 << 24);
    assert_eq!(result.0, code::PARAMETER_ERROR);
    assert_eq!(d.command(kind::DISABLE_SLOT, 0, SLOT_1).0, code::SUCCESS);
    assert_eq!(slot_state(&d), 0);
}

#[test]
fn endpoints() {
    let mut d = Driver::new(vec![keyboard().0]);
    d.address(1);
    let configure = |d: &mut Driver| d.command(kind::CONFIGURE_ENDPOINT, INPUT, SLOT_1).0;
    for bad in [(3, 0), (3, 3), (2, 7), (4, 5)] {
        d.input(1, &[bad]);
        assert_eq!(configure(&mut d), code::PARAMETER_ERROR, "{bad:?}");
    }
    d.input(1, &[(3, 7)]);
    d.put(INPUT + 32 * 4, &(1u32 << 10).to_le_bytes());
    assert_eq!(configure(&mut d), code::PARAMETER_ERROR, "streams");
    d.input(1, &[(1, 4)]);
    assert_eq!(
        configure(&mut d),
        code::TRB_ERROR,
        "endpoint 0 is not to be added"
    );
    d.input(1, &[(3, 7)]);
    assert_eq!(configure(&mut d), code::SUCCESS);
    assert_eq!(
        (slot_state(&d), d.dword(OUTPUT) >> 27, d.state(3)),
        (3, 3, ep::RUNNING)
    );
    assert_eq!(configure(&mut d), code::SUCCESS, "it begins anew");

    // 4.8.3: which state allows what.
    let mut run = |kind, control| d.command(kind, Driver::ring(3) | 1, control).0;
    assert_eq!(run(kind::RESET_ENDPOINT, EP_3), code::CONTEXT_STATE_ERROR);
    assert_eq!(run(kind::SET_TR_DEQUEUE, EP_3), code::CONTEXT_STATE_ERROR);
    assert_eq!(run(kind::STOP_ENDPOINT, SLOT_1), code::TRB_ERROR);
    assert_eq!(
        run(kind::STOP_ENDPOINT, SLOT_1 | 5 << 16),
        code::CONTEXT_STATE_ERROR
    );
    assert_eq!(run(kind::STOP_ENDPOINT, EP_3), code::SUCCESS);
    assert_eq!(run(kind::STOP_ENDPOINT, EP_3), code::CONTEXT_STATE_ERROR);
    assert_eq!(run(kind::SET_TR_DEQUEUE, EP_3), code::SUCCESS);
    assert_eq!(d.state(3), ep::STOPPED);
    d.ring_bell(1, 3);
    assert_eq!(d.state(3), ep::RUNNING);

    // Evaluate context: endpoint 0's packets.
    d.input(1, &[(1, 4)]);
    d.put(INPUT + 4, &2u32.to_le_bytes());
    d.put(INPUT + 64 + 6, &[8, 0]);
    assert_eq!(
        d.command(kind::EVALUATE_CONTEXT, INPUT, SLOT_1).0,
        code::SUCCESS
    );
    assert_eq!(d.dword(OUTPUT + 36) >> 16, 8);
    d.put(INPUT + 4, &8u32.to_le_bytes());
    assert_eq!(
        d.command(kind::EVALUATE_CONTEXT, INPUT, SLOT_1).0,
        code::TRB_ERROR
    );

    // Deconfigure; configure again; reset the device.
    let result = d.command(kind::CONFIGURE_ENDPOINT, INPUT, SLOT_1 | 1 << 9);
    assert_eq!(
        (result.0, slot_state(&d), d.state(3)),
        (code::SUCCESS, 2, ep::DISABLED)
    );
    d.input(1, &[(3, 7)]);
    assert_eq!(
        d.command(kind::CONFIGURE_ENDPOINT, INPUT, SLOT_1).0,
        code::SUCCESS
    );
    assert_eq!(d.command(kind::RESET_DEVICE, 0, SLOT_1).0, code::SUCCESS);
    assert_eq!(
        (slot_state(&d), d.state(3), d.state(1)),
        (1, ep::DISABLED, ep::RUNNING)
    );
    assert_eq!(d.command(kind::STOP_ENDPOINT, 0, EP_1).0, code::SUCCESS);
}

#[test]
fn the_ring_stops_and_goes_on() {
    let mut d = Driver::new(vec![]);
    d.command(kind::NO_OP_COMMAND, 0, 0);
    assert_eq!(
        d.read(OP + 0x18),
        8,
        "it runs, and nothing else is to be seen"
    );
    d.write8(OP + 0x18, 0x1_0000_0000 | 1 << 1);
    let stopped = d.events()[0];
    assert_eq!(
        (stopped.code, stopped.parameter),
        (code::COMMAND_RING_STOPPED, COMMANDS + 16)
    );
    assert_eq!(d.read(OP + 0x18), 0);
    d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
    d.ring_bell(0, 0);
    assert_eq!(d.events()[0].parameter, COMMANDS + 16, "where it was");
    // Halted: a doorbell does nothing, and the pointer can be set.
    d.write(OP, 0);
    assert_eq!(d.read(OP + 4) & HALTED, HALTED);
    d.push(0, kind::NO_OP_COMMAND, 0, 0, 0);
    d.ring_bell(0, 0);
    assert_eq!(d.events(), []);
}
