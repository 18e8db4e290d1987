#include "volume/open_volumes.h"

#include <fmt/core.h>

#include <utility>

#include "base/assert.h"

namespace fdbnbd::volume {

Task<void> go_to(Executor& executor) {
  if (!executor.runs_here()) co_await reschedule(executor);
}

OpenVolumes::OpenVolumes(RecordReader& records, std::vector<Executor*> executors, Ownership ownership,
                         InstanceId owner)
    : records_(records),
      engine_(records.engine()),
      home_(records.executor()),
      keys_(records.keys()),
      executors_(std::move(executors)),
      ownership_(std::move(ownership)),
      owner_(owner) {
  ASSERT(!executors_.empty());
}

Task<void> OpenVolumes::close() {
  stop();
  for (const auto& [id, opened] : open_) opened->is_wanted.store(true, std::memory_order_relaxed);
  while (volumes_count_ > 0) co_await changed_.wait();
  co_await scope_.join();
}

std::shared_ptr<block::Export> OpenVolumes::make_session(const Hold& held) {
  const std::shared_ptr<OpenVolume>& opened = held.opened();
  ++opened->holders_count;
  ++opened->sessions_count;
  return {opened->volume.get(), [this, opened](block::Export*) {
            // The last owner may let go on any thread.
            post(home_, [this, opened] { release(opened, true); });
          }};
}

Task<Result<std::unique_ptr<Volume>>> OpenVolumes::open(Executor& executor, std::string name,
                                                        VolumeRecord record, Takeover takeover) {
  Ownership ownership = ownership_;
  ownership.takeover = takeover;
  if (taken_once_.contains(record.id)) ownership.takeover = Takeover::when_free;
  co_await go_to(executor);
  auto volume = co_await Volume::open({engine_, executor, keys_, owner_, ownership, stopping_},
                                      std::move(name), record);
  co_await go_to(home_);
  if (volume && ownership.takeover != Takeover::when_free) taken_once_.insert(record.id);
  co_return volume;
}

std::shared_ptr<OpenVolume> OpenVolumes::find(VolumeId id) const {
  const auto found = open_.find(id);
  return found == open_.end() ? nullptr : found->second;
}

void OpenVolumes::forget(const OpenVolume& opened) {
  if (const auto found = open_.find(opened.id); found != open_.end() && found->second.get() == &opened)
    open_.erase(found);
  changed_.notify_all();
}

Task<Result<OpenVolumes::Hold>> OpenVolumes::hold_with(VolumeId id, std::string name, Takeover takeover,
                                                       bool is_job) {
  while (true) {
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    const std::shared_ptr<OpenVolume> opened = find(id);
    if (!opened) break;
    if (!opened->volume || opened->closing) {
      co_await changed_.wait();
      continue;
    }
    // Whoever only waits for its end is nobody whom others would have to wait for.
    const bool only_waits = opened->volume->is_retired();
    ++opened->holders_count;
    opened->jobs_count += is_job || only_waits ? 1 : 0;
    Hold held(*this, opened, is_job || only_waits);
    if (!only_waits) co_return held;
    // Those who have it are told to go, and whoever comes now needs a tenure of his own. That must not end
    // the one in which what was begun is finished and the volume is handed on.
    co_await go_to(*opened->executor);
    co_await opened->volume->wait_until_let_go();
    co_await go_to(home_);
    if (find(id) == opened) open_.erase(id);
  }
  const auto opening = std::make_shared<OpenVolume>();
  opening->id = id;
  opening->executor = &next_executor();
  opening->holders_count = 1;
  opening->jobs_count = is_job ? 1 : 0;
  open_[id] = opening;
  ++volumes_count_;
  Result<std::unique_ptr<Volume>> volume = fail(Errc::not_found, "");
  if (auto records = co_await records_.load(id, name); records) {
    volume = co_await open(*opening->executor, name, records->volume, takeover);
  } else {
    volume = propagate(records);
  }
  if (!volume) {
    --volumes_count_;
    forget(*opening);
    co_return propagate(volume);
  }
  opening->volume = std::move(*volume);
  Hold held(*this, opening, is_job);
  changed_.notify_all();
  co_return held;
}

Task<Result<OpenVolumes::Reservation>> OpenVolumes::reserve(VolumeId id, std::string name, bool disconnect) {
  while (true) {
    if (stopping_) co_return fail(Errc::cancelled, "the server is stopping");
    const std::shared_ptr<OpenVolume> opened = find(id);
    if (!opened) co_return Reservation(*this, id);
    const bool is_worked_on =
        opened->holders_count > opened->jobs_count + opened->sessions_count && !opened->closing;
    if (is_worked_on)
      co_return fail(Errc::busy, fmt::format("volume \"{}\" is being worked on: wait for that to end", name));
    if (opened->sessions_count > 0 && disconnect && opened->volume && !opened->closing) {
      Reservation reservation(*this, id);
      ++opened->holders_count;
      co_await take_from_sessions(Hold(*this, opened, false));
      co_return reservation;
    }
    if (opened->sessions_count > 0) {
      co_return fail(Errc::busy,
                     fmt::format("volume \"{}\" is in use by {} NBD session{}: detach the clients first",
                                 name, opened->sessions_count, opened->sessions_count == 1 ? "" : "s"));
    }
    opened->is_wanted.store(true, std::memory_order_relaxed);
    co_await changed_.wait();
  }
}

// It has left open_ already. Its sessions may all let it go meanwhile.
Task<void> OpenVolumes::take_from_sessions(Hold held) {
  held.opened()->is_wanted.store(true, std::memory_order_relaxed);
  co_await go_to(held.executor());
  co_await held.volume().depart();
  co_await go_to(home_);
}

void OpenVolumes::release(std::shared_ptr<OpenVolume> opened, bool session) {
  ASSERT(home_.runs_here());
  ASSERT(opened->holders_count > 0);
  if (session) --opened->sessions_count;
  if (--opened->holders_count == 0 && !opened->closing) {
    opened->closing = true;
    scope_.spawn(close_when_unused(std::move(opened)));
  }
}

Task<void> OpenVolumes::close_when_unused(std::shared_ptr<OpenVolume> opened) {
  co_await go_to(*opened->executor);
  co_await opened->volume->close();
  opened->volume.reset();
  co_await go_to(home_);
  --volumes_count_;
  forget(*opened);
}

void OpenVolumes::note_snapshot(VolumeId id) {
  const auto opened = find(id);
  if (!opened || !opened->volume || opened->closing) return;
  post(*opened->executor, [opened] {
    if (opened->volume) opened->volume->note_snapshot();
  });
}

void OpenVolumes::forget_parents(VolumeId id, LayerId top) {
  const auto opened = find(id);
  if (!opened || !opened->volume || opened->closing) return;
  post(*opened->executor, [opened, top] {
    if (opened->volume) opened->volume->forget_parents(top);
  });
}

Task<Result<std::optional<Vacancy>>> OpenVolumes::claim(VolumeId id, std::string name) {
  if (!engine_.capabilities().shared_between_hosts) co_return std::nullopt;
  Ownership ownership = ownership_;
  // Nobody's disk is pulled from under him by a verb.
  ownership.takeover = Takeover::when_free;
  ASSIGN_OR_CO_RETURN(Vacancy vacancy,
                      co_await wait_for_holder(place_of(id), std::move(ownership), std::move(name)));
  co_return vacancy;
}

}  // namespace fdbnbd::volume
