//! The window: what its events do.

use super::keyboard::{self, Does, Hot, Keyboard};
use super::mailbox::{Event, Mailbox};
use super::mouse::{self, Held, Steps, Wheel};
use super::view::View;
use super::{Machine, News};
use crate::console;
use crate::display::hub::{Shot, Viewer};
use crate::error::Error;
use crate::signals::Control;
use emu_devices::display::Frame;
use softbuffer::{Context, SoftBufferError, Surface};
use std::collections::VecDeque;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use winit::application::ApplicationHandler;
use winit::dpi::{PhysicalPosition, PhysicalSize};
use winit::event::{DeviceEvent, DeviceId, ElementState, KeyEvent, MouseButton, WindowEvent};
use winit::event_loop::{ActiveEventLoop, OwnedDisplayHandle};
use winit::keyboard::PhysicalKey;
use winit::window::{CursorGrabMode, Fullscreen, Window, WindowId};

/// How long the first picture is waited for, which gives the window its size.
const FIRST: Duration = Duration::from_millis(500);
/// The window's size when there is none.
const DEFAULT: (usize, usize) = (720, 400);
/// Buffers of a display server have shown no picture older than this.
const OLDEST: usize = 4;
/// Sizes asked for that may still be on their way.
const ASKED: usize = 8;
const RELEASE: &str = "Press Ctrl+Alt+G to release grab";

/// Who has the pointer.
enum Pointer {
    /// The host, or a guest that is told where it is.
    Free,
    /// The guest; it is kept in the window.
    Held(Held),
    /// The guest; it does not move on the host.
    Locked,
}

/// The window and its pixels.
struct Open {
    window: Rc<Window>,
    surface: Surface<OwnedDisplayHandle, Rc<Window>>,
    /// What has been drawn, newest first.
    drawn: VecDeque<(View, Arc<Frame>)>,
    view: View,
}

impl Open {
    fn new(events: &ActiveEventLoop, title: &str, size: (usize, usize)) -> Result<Self, String> {
        let attributes = Window::default_attributes()
            .with_title(title)
            .with_inner_size(physical(size));
        let window = Rc::new(events.create_window(attributes).map_err(text)?);
        let context = Context::new(events.owned_display_handle()).map_err(text)?;
        let surface = Surface::new(&context, window.clone()).map_err(text)?;
        Ok(Self {
            window,
            surface,
            drawn: VecDeque::new(),
            view: View::fit(size, size),
        })
    }

    /// Draws a picture.
    fn draw(&mut self, frame: &Arc<Frame>) -> Result<(), SoftBufferError> {
        let size = self.window.inner_size();
        let sides = (NonZeroU32::new(size.width), NonZeroU32::new(size.height));
        // A window may be that small.
        let (Some(width), Some(height)) = sides else {
            return Ok(());
        };
        self.surface.resize(width, height)?;
        let mut buffer = self.surface.buffer_mut()?;
        let view = self.view;
        let age = usize::from(buffer.age());
        let old = age.checked_sub(1).and_then(|n| self.drawn.get(n));
        let old = old.filter(|old| old.0 == view).map(|old| &*old.1);
        view.draw(frame, old, &mut buffer);
        self.window.pre_present_notify();
        // All of it, since the window may have been covered.
        buffer.present()?;
        self.drawn.push_front((view, frame.clone()));
        self.drawn.truncate(OLDEST);
        Ok(())
    }
}

pub struct App {
    title: String,
    viewer: Viewer,
    control: Arc<Control>,
    mailbox: Arc<Mailbox>,
    /// The loop has been woken and has not looked yet.
    told: Arc<AtomicBool>,
    /// Who waits for the window.
    opened: Option<SyncSender<Result<(), Error>>>,
    open: Option<Open>,
    shot: Shot,
    /// The window has the picture's size, until its user gives it another.
    follows: bool,
    asked: VecDeque<PhysicalSize<u32>>,
    keyboard: Keyboard,
    pointer: Pointer,
    absolute: bool,
    cursor: (f64, f64),
    buttons: u8,
    wheel: Wheel,
    steps: Steps,
}

impl App {
    pub fn new(
        title: String,
        machine: &Machine,
        mailbox: Arc<Mailbox>,
        told: Arc<AtomicBool>,
    ) -> Self {
        Self {
            title,
            viewer: machine.hub.view(),
            control: machine.control.clone(),
            mailbox,
            told,
            opened: Some(machine.opened.clone()),
            open: None,
            shot: Shot::default(),
            follows: true,
            asked: VecDeque::new(),
            keyboard: Keyboard::default(),
            pointer: Pointer::Free,
            absolute: false,
            cursor: (0.0, 0.0),
            buttons: 0,
            wheel: Wheel::default(),
            steps: Steps::default(),
        }
    }

    /// Without a window there is no run that anybody sees.
    pub fn failed(&self, why: &dyn Display) {
        if self.control.stop().is_none() {
            console::say(format_args!("emu: --display window: {why}"));
            self.control.fail();
        }
    }

    fn picture(&self) -> (usize, usize) {
        match (self.shot.frame.width, self.shot.frame.height) {
            (0, _) | (_, 0) => DEFAULT,
            size => size,
        }
    }

    /// The window's size for the picture: whole pixels, on a dense screen several.
    fn own_size(&self, scale: f64) -> PhysicalSize<u32> {
        let scale = scale.max(1.0) as usize;
        let (width, height) = self.picture();
        physical((width * scale, height * scale))
    }

    /// Gives the window the picture's size.
    fn follow(&mut self) {
        let Some(open) = &self.open else { return };
        if open.window.fullscreen().is_some() {
            return;
        }
        let size = self.own_size(open.window.scale_factor());
        let now = open.window.request_inner_size(size);
        self.asked_for(size);
        if let Some(size) = now {
            self.resized(size);
        }
    }

    fn asked_for(&mut self, size: PhysicalSize<u32>) {
        self.asked.push_front(size);
        self.asked.truncate(ASKED);
    }

    fn resized(&mut self, size: PhysicalSize<u32>) {
        let picture = self.picture();
        let Some(open) = &mut self.open else { return };
        if open.window.fullscreen().is_none() && !self.asked.contains(&size) {
            self.follows = false;
        }
        let window = (size.width as usize, size.height as usize);
        if open.view.window != window && matches!(self.pointer, Pointer::Held(_)) {
            let held = Held::new(window, self.cursor);
            let _ = open.window.set_cursor_position(position(held.middle()));
            self.pointer = Pointer::Held(held);
        }
        open.view = View::fit(picture, window);
        open.window.request_redraw();
    }

    /// Takes the newest picture, and looks at which pointer the guest uses.
    fn look(&mut self) {
        self.told.store(false, SeqCst);
        let absolute = self.viewer.is_absolute();
        if std::mem::replace(&mut self.absolute, absolute) != absolute {
            if absolute {
                self.ungrab();
            }
            self.dress();
        }
        let before = self.picture();
        self.shot = self.viewer.shot();
        let picture = self.picture();
        let Some(open) = &mut self.open else { return };
        open.view = View::fit(picture, open.view.window);
        open.window.request_redraw();
        if self.follows && picture != before {
            self.follow();
        }
    }

    /// Title and cursor say who has the pointer.
    fn dress(&self) {
        let Some(open) = &self.open else { return };
        let free = matches!(self.pointer, Pointer::Free);
        let title = match free {
            true => self.title.clone(),
            false => format!("{} - {RELEASE}", self.title),
        };
        open.window.set_title(&title);
        open.window.set_cursor_visible(free && !self.absolute);
    }

    /// The guest gets the pointer, unless it knows where it is anyway.
    fn grab(&mut self) {
        let Some(open) = &self.open else { return };
        if self.absolute || !matches!(self.pointer, Pointer::Free) {
            return;
        }
        let window = &open.window;
        let held = Held::new(open.view.window, self.cursor);
        let confine = || {
            window.set_cursor_grab(CursorGrabMode::Confined)?;
            window.set_cursor_position(position(held.middle()))
        };
        // X11 has no lock.
        self.pointer = match window.set_cursor_grab(CursorGrabMode::Locked) {
            Ok(()) => Pointer::Locked,
            Err(_) => match confine() {
                Ok(()) => Pointer::Held(held),
                Err(e) => {
                    let _ = window.set_cursor_grab(CursorGrabMode::None);
                    console::say(format_args!(
                        "emu: --display window: the pointer cannot be grabbed: {e}"
                    ));
                    return;
                }
            },
        };
        self.steps = Steps::default();
        self.dress();
    }

    fn ungrab(&mut self) {
        if matches!(self.pointer, Pointer::Free) {
            return;
        }
        self.unclick();
        self.pointer = Pointer::Free;
        if let Some(open) = &self.open {
            // A window that has gone holds nothing.
            let _ = open.window.set_cursor_grab(CursorGrabMode::None);
        }
        self.dress();
    }

    /// Tells the guest of the buttons, and of the pointer's place.
    fn point(&self, (dx, dy): (i32, i32), buttons: u8) {
        match (&self.open, &self.pointer) {
            (Some(open), Pointer::Free) if self.absolute => {
                let (x, y) = open.view.pixel_at(self.cursor.0, self.cursor.1);
                self.mailbox.push(Event::At { x, y, buttons });
            }
            (_, Pointer::Free) => {}
            _ => self.mailbox.push(Event::By { dx, dy, buttons }),
        }
    }

    fn unclick(&mut self) {
        if std::mem::take(&mut self.buttons) != 0 {
            self.point((0, 0), 0);
        }
    }

    fn moved(&mut self, by: (f64, f64)) {
        let steps = self.steps.moved(by);
        if steps != (0, 0) {
            self.point(steps, self.buttons);
        }
    }

    fn cursor_at(&mut self, at: (f64, f64)) {
        self.cursor = at;
        match &mut self.pointer {
            Pointer::Held(held) => {
                let (by, back) = held.at(at);
                let middle = held.middle();
                if back && let Some(open) = &self.open {
                    let _ = open.window.set_cursor_position(position(middle));
                }
                self.moved(by);
            }
            Pointer::Free => self.point((0, 0), self.buttons),
            Pointer::Locked => {}
        }
    }

    fn clicked(&mut self, button: MouseButton, down: bool) {
        if down && !self.absolute && matches!(self.pointer, Pointer::Free) {
            // The click that takes the pointer is not the guest's.
            if button == MouseButton::Left {
                self.grab();
            }
            return;
        }
        let Some(bit) = mouse::button(button) else {
            return;
        };
        let before = self.buttons;
        match down {
            true => self.buttons |= bit,
            false => self.buttons &= !bit,
        }
        if self.buttons != before {
            self.point((0, 0), self.buttons);
        }
    }

    fn key(&mut self, event: &KeyEvent) {
        let PhysicalKey::Code(key) = event.physical_key else {
            return;
        };
        let Some(code) = keyboard::code(key) else {
            return;
        };
        let down = event.state == ElementState::Pressed;
        let does = match down {
            true => self.keyboard.pressed(code, event.repeat),
            false => self.keyboard.released(code),
        };
        match does {
            Does::Nothing => {}
            Does::Guest => self.mailbox.push(Event::Key(code, down)),
            Does::Window(hot) => self.hot(hot),
        }
    }

    fn hot(&mut self, hot: Hot) {
        match hot {
            Hot::Grab => match self.pointer {
                Pointer::Free => self.grab(),
                _ => self.ungrab(),
            },
            Hot::FullScreen => {
                let Some(open) = &self.open else { return };
                let full = open.window.fullscreen().is_some();
                let to = (!full).then_some(Fullscreen::Borderless(None));
                open.window.set_fullscreen(to);
                if full && self.follows {
                    self.follow();
                }
            }
            Hot::OwnSize => {
                self.follows = true;
                self.follow();
            }
            Hot::Quit => self.control.quit(),
        }
    }

    /// The user is elsewhere: nothing stays pressed.
    fn unfocused(&mut self) {
        for code in self.keyboard.release() {
            self.mailbox.push(Event::Key(code, false));
        }
        self.unclick();
        self.ungrab();
    }
}

impl ApplicationHandler<News> for App {
    fn resumed(&mut self, events: &ActiveEventLoop) {
        let Some(opened) = self.opened.take() else {
            return;
        };
        self.absolute = self.viewer.is_absolute();
        if let Some(shot) = self.viewer.wait(FIRST, |_| true) {
            self.shot = shot;
        }
        let done = match Open::new(events, &self.title, self.picture()) {
            Ok(open) => {
                let size = open.window.inner_size();
                self.asked_for(size);
                self.open = Some(open);
                self.resized(size);
                self.dress();
                Ok(())
            }
            Err(e) => {
                events.exit();
                Err(Error::Window(e))
            }
        };
        let _ = opened.send(done);
    }

    fn user_event(&mut self, events: &ActiveEventLoop, news: News) {
        match news {
            News::Look => self.look(),
            News::End => events.exit(),
        }
    }

    fn window_event(&mut self, events: &ActiveEventLoop, _: WindowId, event: WindowEvent) {
        match event {
            // The window stays until the run has ended.
            WindowEvent::CloseRequested => self.control.quit(),
            WindowEvent::Destroyed => {
                self.control.quit();
                events.exit();
            }
            WindowEvent::Resized(size) => self.resized(size),
            WindowEvent::ScaleFactorChanged {
                scale_factor,
                mut inner_size_writer,
            } if self.follows => {
                let size = self.own_size(scale_factor);
                if inner_size_writer.request_inner_size(size).is_ok() {
                    self.asked_for(size);
                }
            }
            WindowEvent::RedrawRequested => {
                let frame = self.shot.frame.clone();
                let drawn = self.open.as_mut().map(|open| open.draw(&frame));
                if let Some(Err(e)) = drawn {
                    self.failed(&e);
                    events.exit();
                }
            }
            WindowEvent::Focused(false) => self.unfocused(),
            // What was pressed elsewhere is not the guest's.
            WindowEvent::KeyboardInput {
                event,
                is_synthetic: false,
                ..
            } => self.key(&event),
            WindowEvent::CursorMoved { position, .. } => {
                self.cursor_at((position.x, position.y));
            }
            WindowEvent::MouseInput { state, button, .. } => {
                self.clicked(button, state == ElementState::Pressed);
            }
            WindowEvent::MouseWheel { delta, .. } => {
                let (button, times) = self.wheel.turned(delta);
                for _ in 0..times {
                    self.point((0, 0), self.buttons | button);
                    self.point((0, 0), self.buttons);
                }
            }
            _ => {}
        }
    }

    fn device_event(&mut self, _: &ActiveEventLoop, _: DeviceId, event: DeviceEvent) {
        if let (Pointer::Locked, DeviceEvent::MouseMotion { delta }) = (&self.pointer, event) {
            self.moved(delta);
        }
    }
}

fn physical((width, height): (usize, usize)) -> PhysicalSize<u32> {
    PhysicalSize::new(width as u32, height as u32)
}

fn position((x, y): (f64, f64)) -> PhysicalPosition<f64> {
    PhysicalPosition::new(x, y)
}

fn text(e: impl Display) -> String {
    e.to_string()
}
