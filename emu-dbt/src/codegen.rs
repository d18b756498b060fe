//! Cranelift: from a translated function to bytes. And the one function that cranelift-jit makes: the way into units.

use crate::code_cache::Kept;
use crate::options::Options;
use crate::region::Region;
use crate::translate;
use crate::unit::Compiled;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{AbiParam, Function, Signature};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, ir::InstBuilder};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module};
use std::time::Instant;

/// Why a region has no code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("no code generator for this host: {0}; use --engine interp")]
    Host(String),
    #[error("cranelift: {0}")]
    Cranelift(String),
    #[error("compiled code refers to something outside itself")]
    Relocation,
    #[error("translation: {0}")]
    Translate(&'static str),
}

fn flags(verify: bool) -> Result<settings::Flags, CompileError> {
    let mut b = settings::builder();
    let on = |v| if v { "true" } else { "false" };
    for (name, value) in [
        // The e-graph pass takes a third of the time and finds little in what translation leaves (see README).
        ("opt_level", "none"),
        ("regalloc_algorithm", "backtracking"),
        ("enable_verifier", on(verify)),
        // What tail calls ask for.
        ("preserve_frame_pointers", "true"),
        ("unwind_info", "false"),
        ("enable_probestack", "false"),
        ("is_pic", "false"),
        ("machine_code_cfg_info", "false"),
    ] {
        b.set(name, value)
            .map_err(|e| CompileError::Host(e.to_string()))?;
    }
    Ok(settings::Flags::new(b))
}

/// The host as Cranelift's target.
pub fn host(verify: bool) -> Result<OwnedTargetIsa, CompileError> {
    let host = |e: String| CompileError::Host(e);
    cranelift_native::builder()
        .map_err(|e| host(e.to_owned()))?
        .finish(flags(verify)?)
        .map_err(|e| host(e.to_string()))
}

/// Every unit is `tail fn(vcpu) -> exit`.
pub fn unit_signature() -> Signature {
    signature_of(CallConv::Tail)
}

fn signature_of(convention: CallConv) -> Signature {
    let mut s = Signature::new(convention);
    s.params.push(AbiParam::new(I64));
    s.returns.push(AbiParam::new(I64));
    s
}

/// A unit with its IR and, in Cranelift's words, the host's code.
pub struct Explained {
    pub compiled: Compiled,
    pub ir: String,
    pub assembly: String,
}

/// Cranelift's convention without preserved registers is Winch's. That tail calls leave such a function as they leave a `tail` one
/// was seen in its code generator for x86-64 (0.135: `emit_return_call_common_sequence` takes the frame as it was laid out); its
/// verifier does not know, and checks the IR before.
fn bare(options: Options) -> bool {
    options.bare() && cfg!(target_arch = "x86_64")
}

/// Compiles regions one after the other; lives on the background thread.
pub struct Compiler {
    isa: OwnedTargetIsa,
    context: Context,
    builder: FunctionBuilderContext,
    options: Options,
}

impl Compiler {
    pub fn new(options: Options) -> Result<Self, CompileError> {
        Ok(Self {
            isa: host(options.verify && !bare(options))?,
            context: Context::new(),
            builder: FunctionBuilderContext::new(),
            options,
        })
    }

    /// The unit's code. Nothing of the guest's state is looked at.
    pub fn compile(&mut self, region: &Region) -> Result<Compiled, CompileError> {
        self.run(region, false).map(|x| x.compiled)
    }

    /// The same, with the IR and the host's assembly as text.
    pub fn explain(&mut self, region: &Region) -> Result<Explained, CompileError> {
        self.run(region, true)
    }

    /// Puts the region's IR into `context`.
    fn build(&mut self, region: &Region, all_seen: bool) -> Result<Compiled, &'static str> {
        self.context.clear();
        self.context.func.signature = unit_signature();
        let mut out = Compiled::default();
        let config = self.isa.frontend_config();
        let b = FunctionBuilder::new(&mut self.context.func, &mut self.builder);
        match translate::translate(b, region, self.options, all_seen, config, &mut out) {
            Ok(()) => Ok(out),
            Err(why) => {
                // The builder keeps what a finished function would have cleared.
                self.builder = FunctionBuilderContext::new();
                Err(why)
            }
        }
    }

    /// Has the function, and those that it goes on in, preserve no register: nobody who enters a unit wants any back, but for
    /// the trampoline, which saves all. The IR is what it was.
    fn spare_registers(&mut self) -> Result<(), CompileError> {
        let func = &mut self.context.func;
        if self.options.verify {
            // The verifier knows tail calls of the usual convention only.
            cranelift_codegen::verify_function(func, &*self.isa)
                .map_err(|e| CompileError::Cranelift(e.to_string()))?;
        }
        func.signature.call_conv = CallConv::Winch;
        for s in func.dfg.signatures.values_mut() {
            if s.call_conv == CallConv::Tail {
                s.call_conv = CallConv::Winch;
            }
        }
        Ok(())
    }

    fn run(&mut self, region: &Region, text: bool) -> Result<Explained, CompileError> {
        let began = Instant::now();
        let mut out = match self.build(region, false) {
            Err(translate::UNSEEN) => self.build(region, true),
            built => built,
        }
        .map_err(CompileError::Translate)?;
        if bare(self.options) {
            self.spare_registers()?;
        }
        let mut ir = String::new();
        if text {
            ir = self.context.func.display().to_string();
            self.context.set_disasm(true);
        }
        self.context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|e| CompileError::Cranelift(format!("{e:?}")))?;
        let Some(code) = self.context.compiled_code() else {
            return Err(CompileError::Cranelift("no code".to_owned()));
        };
        if !code.buffer.relocs().is_empty() {
            return Err(CompileError::Relocation);
        }
        out.code = code.code_buffer().to_vec();
        let assembly = code.vcode.clone().unwrap_or_default();
        out.ns = began.elapsed().as_nanos() as u64;
        Ok(Explained {
            compiled: out,
            ir,
            assembly,
        })
    }
}

/// The way from Rust into units, made once by cranelift-jit and kept as long as the engine.
pub struct Trampoline {
    /// Owns the code.
    _module: Kept,
    address: *const u8,
}

impl Trampoline {
    pub fn new() -> Result<Self, CompileError> {
        let fail = |e: Box<cranelift_module::ModuleError>| CompileError::Cranelift(e.to_string());
        let fail2 = |e: cranelift_module::ModuleError| fail(Box::new(e));
        let mut module = JITModule::new(JITBuilder::with_isa(
            host(false)?,
            cranelift_module::default_libcall_names(),
        ));
        let mut signature = Signature::new(CallConv::triple_default(module.isa().triple()));
        signature.params = vec![AbiParam::new(I64); 2];
        signature.returns = vec![AbiParam::new(I64)];
        let id = module
            .declare_function("enter", Linkage::Local, &signature)
            .map_err(fail2)?;
        let mut context = module.make_context();
        context.func = Function::with_name_signature(Default::default(), signature);
        let mut room = FunctionBuilderContext::new();
        let mut b = FunctionBuilder::new(&mut context.func, &mut room);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let (cpu, code) = (b.block_params(entry)[0], b.block_params(entry)[1]);
        // No unit is expected to preserve a register.
        let unit = b.import_signature(signature_of(CallConv::Winch));
        let call = b.ins().call_indirect(unit, code, &[cpu]);
        let result = b.inst_results(call)[0];
        b.ins().return_(&[result]);
        b.finalize(module.isa().frontend_config());
        module.define_function(id, &mut context).map_err(fail2)?;
        module.finalize_definitions().map_err(fail2)?;
        let address = module.get_finalized_function(id);
        Ok(Self {
            _module: Kept::new(module),
            address,
        })
    }

    /// `extern "C" fn(vcpu, code) -> exit`.
    pub fn address(&self) -> *const u8 {
        self.address
    }
}
