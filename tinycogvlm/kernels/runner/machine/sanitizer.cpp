// The calls that g++ -fsanitize=thread,alignment,bounds,integer-divide-by-zero adds to a kernel: for every load and
// store, and for wrong addresses and indices. These functions replace the libraries that come with g++.
#include "check.h"

using namespace machine;

static void seen(const void* address, size_t bytes, AccessKind kind, const void* code) {
    if (watches_kernel()) access(address, bytes, kind, site_of(code));
}

#define FROM __builtin_return_address(0)
#define HERE site_of(FROM)
#define TSAN(bytes)                                                                                                 \
    extern "C" void __tsan_read##bytes(void* a) { seen(a, bytes, READ, FROM); }                                     \
    extern "C" void __tsan_write##bytes(void* a) { seen(a, bytes, WRITE, FROM); }                                   \
    extern "C" void __tsan_unaligned_read##bytes(void* a) { seen(a, bytes, READ, FROM); }                           \
    extern "C" void __tsan_unaligned_write##bytes(void* a) { seen(a, bytes, WRITE, FROM); }
TSAN(1) TSAN(2) TSAN(4) TSAN(8) TSAN(16)
extern "C" void __tsan_read_range(void* a, size_t bytes) { seen(a, bytes, READ, FROM); }
extern "C" void __tsan_write_range(void* a, size_t bytes) { seen(a, bytes, WRITE, FROM); }
extern "C" void __tsan_vptr_update(void** a, void*) { seen(a, sizeof *a, WRITE, FROM); }
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}

struct TypeName { uint16_t kind, info; char name[1]; };
struct SourceLocation { const char* file; uint32_t line, column; };
struct TypeMismatch { SourceLocation location; const TypeName* type; unsigned char log_alignment, check; };
struct OutOfBounds { SourceLocation location; const TypeName *array, *index; };

extern "C" void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, size_t address) {
    if (in_machine() || on_a_stack((const void*)address)) return;      // a GPU has its local variables in registers
    char where[512];
    describe_address((const char*)address, where, sizeof where);
    fault(ALIGNMENT, SITE WHO "takes %s as %s, whose address must be a multiple of %d", HERE, WHO_IS(thread_running()),
          where, data->type->name, 1 << data->log_alignment);
}
extern "C" void __ubsan_handle_out_of_bounds(const OutOfBounds* data, size_t index) {
    fault(BOUNDS, SITE WHO "uses the index %lld of %s", HERE, WHO_IS(thread_running()), (long long)(int)index,
          data->array->name);
}
extern "C" void __ubsan_handle_divrem_overflow(const void*, size_t, size_t divisor) {
    fault(KERNEL, SITE WHO "%s", HERE, WHO_IS(thread_running()),
          divisor ? "divides the most negative integer by -1" : "divides an integer by zero");
}
