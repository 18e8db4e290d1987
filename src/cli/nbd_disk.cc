#include "cli/nbd_disk.h"

#include <fmt/core.h>
#include <libnbd.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "base/assert.h"
#include "cli/request_error.h"

namespace fdbnbd::cli {

namespace {

constexpr char kAllocation[] = LIBNBD_CONTEXT_BASE_ALLOCATION;

// The last failure of libnbd on this thread.
Error library_error(std::string_view what) {
  const int error = nbd_get_errno();
  const char* text = nbd_get_error();
  return {error == 0 ? Errc::io : errc_of_errno(error),
          fmt::format("{}: {}", what, text != nullptr ? text : "failed")};
}

}  // namespace

struct NbdDisk::State {
  ~State() { nbd_close(handle); }

  std::string volume;
  nbd_handle* handle = nullptr;
  size_t in_flight_count = 0;
  std::optional<Error> first_error;
  bool closing = false;  // nobody is called back any more
};

struct NbdDisk::Request {
  State* state;
  const char* what;
  uint64_t offset_bytes;
  uint64_t length_bytes;
  Done on_done;
};

NbdDisk::NbdDisk(std::unique_ptr<State> state, uint64_t size_bytes)
    : state_(std::move(state)), size_bytes_(size_bytes) {}
NbdDisk::NbdDisk(NbdDisk&&) noexcept = default;

NbdDisk::~NbdDisk() {
  if (!state_) return;
  state_->closing = true;
  if (nbd_aio_is_ready(state_->handle) == 1) nbd_shutdown(state_->handle, LIBNBD_SHUTDOWN_ABANDON_PENDING);
}

Result<NbdDisk> NbdDisk::open(net::OwnedFd socket, const std::string& name) {
  auto state = std::make_unique<State>();
  state->volume = name;
  state->handle = nbd_create();
  if (state->handle == nullptr) return tl::unexpected(library_error("NBD client"));
  nbd_handle* const handle = state->handle;
  const std::string doing = fmt::format("volume \"{}\"", name);
  if (nbd_set_export_name(handle, name.c_str()) != 0 || nbd_add_meta_context(handle, kAllocation) != 0 ||
      nbd_set_pread_initialize(handle, false) != 0 || nbd_connect_socket(handle, socket.release()) != 0) {
    return tl::unexpected(library_error(doing));
  }
  const int64_t size_bytes = nbd_get_size(handle);
  if (size_bytes < 0) return tl::unexpected(library_error(doing));
  return NbdDisk(std::move(state), static_cast<uint64_t>(size_bytes));
}

bool NbdDisk::read_only() const {
  return nbd_is_read_only(state_->handle) == 1;
}

int NbdDisk::on_complete(void* user_data, int* error) {
  auto* const request = static_cast<Request*>(user_data);
  State& state = *request->state;
  ASSERT(state.in_flight_count > 0);
  --state.in_flight_count;
  if (*error != 0 && !state.first_error) {
    state.first_error =
        request_error(state.volume, request->what, request->offset_bytes, request->length_bytes, *error);
  }
  if (request->on_done && !state.closing) request->on_done(*error == 0);
  return 1;  // retires the command
}

namespace {

template <typename Request>
void free_request(void* user_data) {
  delete static_cast<Request*>(user_data);
}

}  // namespace

Result<void> NbdDisk::begin_read(uint64_t offset_bytes, MutableByteView into, Done on_done) {
  auto* const request = new Request{state_.get(), "a read", offset_bytes, into.size(), std::move(on_done)};
  ++state_->in_flight_count;
  // libnbd frees the request, also where this fails.
  if (nbd_aio_pread(state_->handle, into.data(), into.size(), offset_bytes,
                    {.callback = on_complete, .user_data = request, .free = free_request<Request>}, 0) < 0) {
    --state_->in_flight_count;
    return tl::unexpected(library_error(fmt::format("volume \"{}\": read", state_->volume)));
  }
  return {};
}

Result<void> NbdDisk::begin_write(uint64_t offset_bytes, ByteView data, Done on_done) {
  auto* const request = new Request{state_.get(), "a write", offset_bytes, data.size(), std::move(on_done)};
  ++state_->in_flight_count;
  if (nbd_aio_pwrite(state_->handle, data.data(), data.size(), offset_bytes,
                     {.callback = on_complete, .user_data = request, .free = free_request<Request>}, 0) < 0) {
    --state_->in_flight_count;
    return tl::unexpected(library_error(fmt::format("volume \"{}\": write", state_->volume)));
  }
  return {};
}

Result<void> NbdDisk::begin_zero(uint64_t offset_bytes, uint64_t length_bytes, Done on_done) {
  auto* const request = new Request{state_.get(), "zeroing", offset_bytes, length_bytes, std::move(on_done)};
  ++state_->in_flight_count;
  if (nbd_aio_zero(state_->handle, length_bytes, offset_bytes,
                   {.callback = on_complete, .user_data = request, .free = free_request<Request>}, 0) < 0) {
    --state_->in_flight_count;
    return tl::unexpected(library_error(fmt::format("volume \"{}\": zero", state_->volume)));
  }
  return {};
}

Result<void> NbdDisk::wait_below(size_t count) {
  while (state_->in_flight_count >= count && !state_->first_error) {
    if (nbd_poll(state_->handle, -1) < 0)
      return tl::unexpected(library_error(fmt::format("the connection to volume \"{}\"", state_->volume)));
  }
  if (state_->first_error) return tl::unexpected(*state_->first_error);
  return {};
}

Result<void> NbdDisk::wait_for_either(NbdDisk& one, NbdDisk& other) {
  const std::array<NbdDisk*, 2> disks{&one, &other};
  std::array<pollfd, 2> polled{};
  for (size_t i = 0; i < disks.size(); ++i) {
    RETURN_IF_ERROR(disks.at(i)->wait_below(SIZE_MAX));  // only what failed already
    nbd_handle* const handle = disks.at(i)->state_->handle;
    const unsigned direction = nbd_aio_get_direction(handle);
    polled.at(i).fd = disks.at(i)->in_flight_count() > 0 ? nbd_aio_get_fd(handle) : -1;
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) polled.at(i).events |= POLLIN;
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) polled.at(i).events |= POLLOUT;
  }
  ASSERT(polled[0].fd >= 0 || polled[1].fd >= 0);
  if (::poll(polled.data(), polled.size(), -1) < 0) {
    if (errno == EINTR) return {};
    return fail(Errc::io, fmt::format("poll: {}", std::strerror(errno)));
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    if (polled.at(i).fd >= 0) RETURN_IF_ERROR(disks.at(i)->move_on(polled.at(i).revents));
  }
  return {};
}

Result<void> NbdDisk::move_on(short events) {
  nbd_handle* const handle = state_->handle;
  int done = 0;
  // The state behind the reading may not want to write any more.
  if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) {
    done = nbd_aio_notify_read(handle);
  } else if ((events & POLLOUT) != 0) {
    done = nbd_aio_notify_write(handle);
  }
  if (done < 0)
    return tl::unexpected(library_error(fmt::format("the connection to volume \"{}\"", state_->volume)));
  return wait_below(SIZE_MAX);
}

size_t NbdDisk::in_flight_count() const {
  return state_->in_flight_count;
}

Result<std::vector<DiskExtent>> NbdDisk::block_status(uint64_t offset_bytes, uint64_t length_bytes) {
  std::vector<DiskExtent> extents;
  if (nbd_can_meta_context(state_->handle, kAllocation) != 1) {
    extents.push_back({.length_bytes = length_bytes, .is_zero = false});
    return extents;
  }
  const auto collect = [](void* user_data, const char* context, uint64_t /*offset*/, uint32_t* entries,
                          size_t entries_count, int* /*error*/) {
    auto& list = *static_cast<std::vector<DiskExtent>*>(user_data);
    if (std::strcmp(context, kAllocation) != 0) return 0;
    for (size_t i = 0; i + 1 < entries_count; i += 2) {
      list.push_back({.length_bytes = entries[i], .is_zero = (entries[i + 1] & LIBNBD_STATE_ZERO) != 0});
    }
    return 0;
  };
  if (nbd_block_status(state_->handle, length_bytes, offset_bytes,
                       {.callback = collect, .user_data = &extents, .free = nullptr}, 0) != 0) {
    return tl::unexpected(library_error(fmt::format("volume \"{}\": block status", state_->volume)));
  }
  if (extents.empty()) return fail(Errc::protocol, "the server gave no block status");
  return extents;
}

Result<void> NbdDisk::flush() {
  if (nbd_flush(state_->handle, 0) != 0)
    return tl::unexpected(library_error(fmt::format("volume \"{}\": flush", state_->volume)));
  return {};
}

}  // namespace fdbnbd::cli
