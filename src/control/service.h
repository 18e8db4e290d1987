#pragma once

#include <string>

#include "async/task.h"
#include "base/result.h"
#include "control/messages.h"
#include "volume/store.h"

namespace fdbnbd::control {

// What `status` tells beside the store's own figures. Called on the store's executor.
class StatusSource {
 public:
  virtual StatusReply status() = 0;

 protected:
  ~StatusSource() = default;
};

// Carries out the verbs on a store. All calls on the store's executor.
class Service {
 public:
  // Both outlive the service.
  Service(volume::Store& store, StatusSource& source) : store_(store), source_(source) {}

  // The result, a JSON object. `progress` lives until the task is done. NbdRequest is not for this: it is the
  // connection's own matter.
  Task<Result<std::string>> handle(Request request, volume::Progress& progress);

 private:
  Task<Result<std::string>> carry_out(HelloRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(CreateRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(ListRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(InfoRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(ResizeRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(RemoveRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(TrashListRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(TrashRestoreRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(TrashPurgeRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(LabelSetRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(LabelRemoveRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(QuotaSetRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupCreateRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupRemoveRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupAddRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupTakeOutRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupListRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupSnapRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(GroupRollbackRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(RenameRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(SnapRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(RollbackRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(CloneRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(FlattenRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(CopyRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(DiffRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(ImportBeginRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(ImportFinishRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(UsageRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(CheckRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(LockListRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(LockBreakRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(StatusRequest request, volume::Progress& progress);
  Task<Result<std::string>> carry_out(NbdRequest request, volume::Progress& progress);

  volume::Store& store_;
  StatusSource& source_;
};

}  // namespace fdbnbd::control
