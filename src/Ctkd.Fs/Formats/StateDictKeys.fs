namespace Ctkd.Fs

open System

/// What weights are for, where a file holds several networks.
[<RequireQualifiedAccess>]
type WeightsRole =
    | Teacher
    | Any

/// The tables of what programs put around a model's weights: all keys and prefixes that are known.
[<RequireQualifiedAccess>]
module internal StateDictKeys =

    /// Keys of a state_dict in a file, those to be preferred first.
    let private plainKeys = [
        "state_dict"
        "model_state_dict"
        "model_state"
        "model"
        "net"
        "network"
        "module"
        "backbone"
        "encoder"
        "weights"
        "params"
        "parameters"
        "checkpoint"
        "best_state_dict"
        "best_model"
    ]

    let private studentKeys = [ "student"; "student_state_dict"; "student_model"; "model_s" ]
    let private teacherKeys = [ "teacher"; "teacher_state_dict"; "teacher_model"; "model_t" ]

    /// Averages of a model's weights over its training: taken only where nothing else is.
    let private averageKeys = [
        "state_dict_ema"
        "ema_state_dict"
        "model_ema"
        "ema_model"
        "ema"
        "averaged_model"
        "swa_model"
    ]

    /// Parts of keys whose tensors are no weights.
    let private foreign = [ "optim"; "sched"; "scaler"; "rng" ]

    /// Wrappers that PyTorch and its tools put before a module's names, and before those of its parts.
    let wrappers = [
        "_orig_mod" // torch.compile
        "_fsdp_wrapped_module" // FullyShardedDataParallel
        "_checkpoint_wrapped_module" // activation checkpointing
        "_forward_module" // Lightning's Fabric
    ]

    /// As `wrappers`, of DataParallel; a network's own part may have the name too.
    let dataParallel = "module"

    /// Attributes that hold the network, or one of two networks, of a larger module.
    let private attributes = [
        "model"
        "net"
        "network"
        "backbone"
        "encoder"
        "ema"
        "ema_model"
        "averaged_model"
        "base_model"
    ]

    /// Attributes that hold one of two networks; the one to be preferred first.
    let attributesByRole (role: WeightsRole) : string list =
        match role with
        | WeightsRole.Teacher -> [ "teacher"; "student" ]
        | WeightsRole.Any -> [ "student"; "teacher" ]

    /// Every prefix of names that may be stripped.
    let prefixes (role: WeightsRole) : string list =
        wrappers @ [ dataParallel ] @ attributesByRole role @ attributes |> List.map (fun name -> name + ".")

    /// Last parts of the names of counters that tools add to a state_dict.
    let private counters: Map<string, string> =
        Map [ "n_averaged", "torch.optim.swa_utils"; "total_ops", "a profiler"; "total_params", "a profiler" ]

    let private lastPart (name: string) : string = name.Substring(name.LastIndexOf '.' + 1)

    /// The tool whose counter a tensor of this name is, if it is one.
    let counter (name: string) : string option = Map.tryFind (lastPart name) counters

    /// Whether tensors under a key are no weights.
    let isForeign (key: string) : bool =
        foreign |> List.exists (fun part -> key.Contains(part, StringComparison.OrdinalIgnoreCase))

    /// The rank of averages and of the network of the other role.
    let least = 10_000

    /// The keys' ranks: usual ones in the order of the table, then any other, and at last averages and the network of the
    /// other role.
    let rankOf (role: WeightsRole) : string -> int =
        let order =
            match role with
            | WeightsRole.Any -> plainKeys @ studentKeys
            | WeightsRole.Teacher -> teacherKeys @ plainKeys

        let last = averageKeys @ (if role = WeightsRole.Any then teacherKeys else studentKeys)
        let ranks = Map(List.indexed order |> List.map (fun (i, key) -> key, i))

        fun key ->
            match Map.tryFind key ranks with
            | Some rank -> rank
            | None when Seq.forall Char.IsAsciiDigit key -> 0
            | None -> if List.contains key last then least else 1_000
