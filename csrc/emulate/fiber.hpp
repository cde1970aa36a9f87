// A flow of control with a stack of its own: one thread of an emulated kernel.
#pragma once

#include <cstddef>
#include <memory>

#ifdef __has_feature // how clang says what gcc defines
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__
#endif
#endif

// What a sanitizer knows of stacks needs the context switch of the C library.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define DMFTCORE_FAST_FIBERS
#else
#include <ucontext.h>
#endif

namespace dmftcore::emulate {

// Everything runs on one thread of the system: resume() enters a fiber, which runs until it calls
// suspend() or exit() and continues there at the next resume().
class Fiber {
public:
  // The next resume() calls entry, which ends with exit() and lets no exception out.
  void start(void (*entry)());
  void resume();
  void suspend();
  [[noreturn]] void exit();
  // The first thing that entry calls.
  void entered();

private:
  struct Memory {
    void operator()(char* p) const;
  };
  void leave(bool for_good);

  std::unique_ptr<char[], Memory> stack_;
#ifdef DMFTCORE_FAST_FIBERS
  void *own_ = nullptr, *caller_ = nullptr; // stack pointers
#else
  ucontext_t own_, caller_;
  void *own_fake_ = nullptr, *caller_fake_ = nullptr;
  const void* caller_stack_ = nullptr;
  std::size_t caller_size_ = 0;
#endif
};

} // namespace dmftcore::emulate
