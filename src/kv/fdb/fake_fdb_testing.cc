#include "kv/fdb/fake_fdb_testing.h"

#include <dlfcn.h>

#include "base/assert.h"

namespace fdbnbd::kv::fdb {

FakeFdb::FakeFdb(const std::string& path) {
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT(library != nullptr);
#define FDBNBD_FAKE_FDB_FIND(name, result, parameters)                                      \
  this->name = reinterpret_cast<decltype(this->name)>(::dlsym(library, "fake_fdb_" #name)); \
  ASSERT(this->name != nullptr);
  FDBNBD_FAKE_FDB_FUNCTIONS(FDBNBD_FAKE_FDB_FIND)
#undef FDBNBD_FAKE_FDB_FIND
}

}  // namespace fdbnbd::kv::fdb
