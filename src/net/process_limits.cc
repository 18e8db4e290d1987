#include "net/process_limits.h"

#include <sys/resource.h>

namespace fdbnbd::net {

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  // Where that is refused the listener copes with the old bound.
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace fdbnbd::net
