namespace Ctkd.Fs

open System

/// Where the elements of a file's tensors are, and how much may be taken for copies of them.
[<ReferenceEquality>]
type internal TensorSource = {
    /// Returns the bytes of a storage that the pickle names.
    Storage: PickleStorage -> ReadOnlyMemory<byte>
    Budget: MemoryBudget
    /// Bytes of tensors that may be copied outside the budget.
    mutable CopiesLeft: int64
}

/// Reads the tensors and numpy arrays of a pickle. Violations raise `Unpicklable`.
[<RequireQualifiedAccess>]
module internal TorchTensors =
    /// Memory in bytes of a tensor without its elements.
    let private tensorSize = 1_000L

    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    let private charge (source: TensorSource) (bytes: int64) : unit = MemoryBudget.charge bytes source.Budget

    /// Allows the copy of a tensor. All tensors of a file may be stored in a different order, so copies may take the
    /// file's size and the rest of the budget.
    let private reserve (source: TensorSource) (bytes: int64) : unit =
        let beyond = bytes - min bytes source.CopiesLeft

        if beyond > source.Budget.Left then
            refuse "its tensors show the same bytes too often: save each tensor with .contiguous()"

        source.CopiesLeft <- source.CopiesLeft - (bytes - beyond)
        charge source beyond

    // ---- tensors

    let private wholes (what: string) (value: PickleValue) : int64 list =
        match value with
        | PickleValue.Tuple items ->
            let items = List.truncate (TorchView.maxRank + 1) items

            if items.Length > TorchView.maxRank then
                refuse $"a tensor has more than {TorchView.maxRank} dimensions"

            items
            |> List.map (
                function
                | PickleValue.Whole number -> number
                | _ -> refuse $"the {what} of a tensor are no integers"
            )
        | _ -> refuse $"the {what} of a tensor are no tuple"

    let tensor (source: TensorSource) (name: string) (found: PickleTensor) : StoredTensor =
        charge source tensorSize

        match found.Storage, found.Offset with
        | PickleValue.Storage stored, PickleValue.Whole offset ->
            let dtype = Option.defaultValue stored.DType found.DType

            let view = {
                ItemSize = int (TorchPickle.itemSize dtype)
                Offset = offset
                Shape = wholes "extents" found.Extents
                Strides = wholes "strides" found.Strides
            }

            {
                Name = name
                DType = dtype
                Shape = view.Shape
                Bytes = TorchView.bytes (reserve source) (source.Storage stored) view
            }
        | PickleValue.Storage _, _ -> refuse "the offset of a tensor is no integer"
        | _ -> refuse "a tensor has no storage"

    // ---- numpy's arrays

    let array
        (source: TensorSource)
        (name: string)
        (dtype: string, extents: int64 list, isFortran: bool, data: PickleValue)
        : StoredTensor =
        charge source tensorSize

        let strides (extents: int64 list) =
            (extents, [ 1L ]) ||> List.foldBack (fun n strides -> n * strides.Head :: strides) |> List.tail

        let view = {
            ItemSize = int (TorchPickle.itemSize dtype)
            Offset = 0L
            Shape = extents
            Strides = if isFortran then List.rev (strides (List.rev extents)) else strides extents
        }

        let length =
            match data with
            | PickleValue.Text text -> int64 text.Length
            | PickleValue.LongText bytes -> int64 bytes.Length
            | _ -> 0L

        // Text is decoded into a copy, in two steps.
        reserve source length
        let bytes = PickleValue.bytes data |> Option.defaultWith (fun () -> refuse "a numpy array has no bytes")

        if TorchView.count view * int64 view.ItemSize <> int64 bytes.Length then
            refuse
                $"a numpy array has {bytes.Length} bytes, its shape needs {TorchView.count view * int64 view.ItemSize}"

        {
            Name = name
            DType = dtype
            Shape = extents
            Bytes = TorchView.bytes (reserve source) bytes view
        }
