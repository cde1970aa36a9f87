#include "emulate/fiber.hpp"

#include <cstdint>
#include <cstdlib>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef DMFTCORE_FAST_FIBERS
// Saves the registers that a function must preserve on this stack, leaves its pointer in *save and
// continues on the other stack. Thirty times as fast as swapcontext, which asks the kernel.
asm(R"(
.text
.hidden dmftcore_switch_stack
.globl dmftcore_switch_stack
.type dmftcore_switch_stack, @function
dmftcore_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
extern "C" void dmftcore_switch_stack(void** save, void* to);
#endif

namespace dmftcore::emulate {
namespace {

constexpr std::size_t STACK_BYTES = 256 * 1024;

} // namespace

void Fiber::Memory::operator()(char* p) const { std::free(p); }

void Fiber::start(void (*entry)()) {
  if (!stack_) {
    stack_.reset(static_cast<char*>(std::aligned_alloc(64, STACK_BYTES)));
    if (!stack_) throw std::bad_alloc();
  }
#ifdef DMFTCORE_FAST_FIBERS
  // As the switch left it: six registers, the address to return to, and a return address of entry
  // that is never used and aligns the stack as a call does.
  auto* top = reinterpret_cast<void**>(stack_.get() + STACK_BYTES) - 8;
  for (int i = 0; i < 8; ++i) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(entry);
  own_ = top;
#else
#ifdef __SANITIZE_ADDRESS__
  // A fiber that was abandoned in the middle has left its frames marked.
  __asan_unpoison_memory_region(stack_.get(), STACK_BYTES);
#endif
  own_fake_ = nullptr;
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_.get();
  own_.uc_stack.ss_size = STACK_BYTES;
  own_.uc_link = nullptr;
  makecontext(&own_, entry, 0);
#endif
}

void Fiber::resume() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&caller_fake_, stack_.get(), STACK_BYTES);
#endif
#ifdef DMFTCORE_FAST_FIBERS
  dmftcore_switch_stack(&caller_, own_);
#else
  swapcontext(&caller_, &own_);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(caller_fake_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack_, &caller_size_);
#endif
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(for_good ? nullptr : &own_fake_, caller_stack_, caller_size_);
#endif
#ifdef DMFTCORE_FAST_FIBERS
  dmftcore_switch_stack(&own_, caller_);
#else
  swapcontext(&own_, &caller_);
#endif
}

void Fiber::suspend() {
  leave(false);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(own_fake_, &caller_stack_, &caller_size_);
#endif
}

void Fiber::exit() {
  leave(true);
  std::abort(); // nobody resumes a fiber that has ended
}

} // namespace dmftcore::emulate
