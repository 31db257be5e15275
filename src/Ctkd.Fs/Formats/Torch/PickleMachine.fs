namespace Ctkd.Fs

open System.Collections.Generic

/// Creates a value from the arguments of an allowed global, or returns why it cannot.
type PickleConstructor = PickleValue list -> Result<PickleValue, string>

/// What a pickle may do.
[<ReferenceEquality>]
type PickleRules = {
    /// The full names of allowed imports, and their constructors.
    Allowed: Map<string, PickleConstructor>
    /// Whether another name may stand in the value as inert data: nothing is imported, and calling it makes an object of
    /// that name with its arguments. Every other name is refused.
    IsInert: string -> bool
    /// Resolves the pickle's name of an external object.
    Outside: PickleValue -> Result<PickleValue, string>
}

/// The stack machine of pickles.
[<ReferenceEquality>]
type internal PickleMachine = {
    Input: PickleInput
    Rules: PickleRules
    Stack: ResizeArray<PickleValue>
    Marks: Stack<int>
    Memo: Dictionary<int64, PickleValue>
}

/// The operations of instructions on the stack, the memo and containers. Each value is charged to the input's budget
/// before it is created.
[<RequireQualifiedAccess>]
module internal PickleMachine =
    let private refuse (reason: string) : 'T = PickleInput.refuse reason

    /// Creates a machine at the input's position.
    let create (rules: PickleRules) (input: PickleInput) : PickleMachine = {
        Input = input
        Rules = rules
        Stack = ResizeArray()
        Marks = Stack()
        Memo = Dictionary()
    }

    // ---- sizes of values in bytes, including the arrays that growing containers discard

    /// A number, a text without its characters, or a list cell.
    let scalar = 32L
    let private container = 128L
    /// A constructed value with its list of arguments.
    let private made = 192L
    let private element = 32L
    let private entry = 64L
    let private memoized = 112L
    let private mark = 16L

    let private charge (bytes: int64) (m: PickleMachine) : unit = PickleInput.charge bytes m.Input

    // ---- stack and memo

    /// Charges the doubling of a full stack.
    let private makeRoom (m: PickleMachine) : unit =
        if m.Stack.Count = m.Stack.Capacity then charge (16L * int64 m.Stack.Capacity) m

    let push (value: PickleValue) (m: PickleMachine) : unit =
        makeRoom m
        m.Stack.Add value

    let private floor (m: PickleMachine) : int = if m.Marks.Count > 0 then m.Marks.Peek() else 0

    let pop (m: PickleMachine) : PickleValue =
        if m.Stack.Count <= floor m then
            refuse $"nothing is on the stack at byte {m.Input.Position}"

        let value = m.Stack[m.Stack.Count - 1]
        m.Stack.RemoveAt(m.Stack.Count - 1)
        value

    let top (m: PickleMachine) : PickleValue =
        let value = pop m
        m.Stack.Add value
        value

    let pushMark (m: PickleMachine) : unit =
        charge mark m
        m.Marks.Push m.Stack.Count

    /// Removes the topmost mark; returns the index of the first value above it.
    let popMark (m: PickleMachine) : int =
        if m.Marks.Count = 0 then
            refuse $"no mark is on the stack at byte {m.Input.Position}"

        m.Marks.Pop()

    /// Returns the index of the first of the topmost `count` values.
    let private below (count: int) (m: PickleMachine) : int =
        let start = m.Stack.Count - count

        if start < floor m then
            refuse $"nothing is on the stack at byte {m.Input.Position}"

        start

    let dropFrom (start: int) (m: PickleMachine) : unit = m.Stack.RemoveRange(start, m.Stack.Count - start)

    /// Pops the values from `start` on, lowest first.
    let private popFrom (start: int) (m: PickleMachine) : PickleValue list =
        charge (scalar * int64 (m.Stack.Count - start)) m
        let mutable values = []

        for i in m.Stack.Count - 1 .. -1 .. start do
            values <- m.Stack[i] :: values

        dropFrom start m
        values

    let private popMany (count: int) (m: PickleMachine) : PickleValue list = popFrom (below count m) m

    let store (index: int64) (m: PickleMachine) : unit =
        if not (m.Memo.ContainsKey index) then charge memoized m

        m.Memo[index] <- top m

    let recall (index: int64) (m: PickleMachine) : unit =
        match m.Memo.TryGetValue index with
        | true, value -> push value m
        | _ -> refuse $"the memo has no entry {index}"

    // ---- containers

    /// The list that values are appended to: the value itself, or the items of an object whose class is a list or set.
    let private listOf (target: PickleValue) (m: PickleMachine) : ResizeArray<PickleValue> =
        match target with
        | PickleValue.Sequence list
        | PickleValue.Object { Items = PickleValue.Sequence list } -> list
        | PickleValue.Object o ->
            charge container m
            let list = ResizeArray()
            o.Items <- PickleValue.Sequence list
            list
        | _ -> refuse "something is appended to what is no list"

    /// The dictionary that entries are set in: the value itself, or the entries of an object whose class is a dictionary.
    let private dictionaryOf
        (target: PickleValue)
        (m: PickleMachine)
        : ResizeArray<struct (PickleValue * PickleValue)> =
        match target with
        | PickleValue.Dictionary entries
        | PickleValue.Object { Entries = PickleValue.Dictionary entries } -> entries
        | PickleValue.Object o ->
            charge container m
            let entries = ResizeArray()
            o.Entries <- PickleValue.Dictionary entries
            entries
        | _ -> refuse "an item is set in what is no dictionary"

    let private target (start: int) (m: PickleMachine) : PickleValue =
        if start > floor m then m.Stack[start - 1] else PickleValue.Nothing

    /// Appends the values from `start` on to the list below them.
    let private appendFrom (start: int) (m: PickleMachine) : unit =
        let list = listOf (target start m) m
        charge (element * int64 (m.Stack.Count - start)) m

        for i in start .. m.Stack.Count - 1 do
            list.Add m.Stack[i]

        dropFrom start m

    /// Adds the keys and values from `start` on to the dictionary below them.
    let private setFrom (start: int) (m: PickleMachine) : unit =
        let entries = dictionaryOf (target start m) m

        if (m.Stack.Count - start) % 2 = 1 then
            refuse "a dictionary in it has a key without a value"

        charge (entry * int64 ((m.Stack.Count - start) / 2)) m

        for i in start..2 .. m.Stack.Count - 2 do
            entries.Add(struct (m.Stack[i], m.Stack[i + 1]))

        dropFrom start m

    let append (count: int) (m: PickleMachine) : unit = appendFrom (below count m) m
    let appendToMark (m: PickleMachine) : unit = appendFrom (popMark m) m
    let setItem (m: PickleMachine) : unit = setFrom (below 2 m) m
    let setToMark (m: PickleMachine) : unit = setFrom (popMark m) m

    /// Inserts an empty container below the values from `start` on.
    let private insert (start: int) (value: PickleValue) (m: PickleMachine) : unit =
        charge container m
        makeRoom m
        m.Stack.Insert(start, value)

    let private newList () = PickleValue.Sequence(ResizeArray())
    let private newDictionary () = PickleValue.Dictionary(ResizeArray())
    let pushList (m: PickleMachine) : unit = insert m.Stack.Count (newList ()) m
    let pushDictionary (m: PickleMachine) : unit = insert m.Stack.Count (newDictionary ()) m

    let listToMark (m: PickleMachine) : unit =
        let start = popMark m
        insert start (newList ()) m
        appendFrom (start + 1) m

    let dictionaryToMark (m: PickleMachine) : unit =
        let start = popMark m
        insert start (newDictionary ()) m
        setFrom (start + 1) m

    let private pushTuple (values: PickleValue list) (m: PickleMachine) : unit =
        charge scalar m
        push (PickleValue.Tuple values) m

    let tuple (count: int) (m: PickleMachine) : unit = pushTuple (popMany count m) m
    let tupleToMark (m: PickleMachine) : unit = pushTuple (popFrom (popMark m) m) m

    // ---- globals and constructed values

    /// The longest name of an import: messages and keys copy it.
    let private longestName = 1_000

    /// Pushes a name. Nothing is ever imported or executed, whatever the name is: those that only an attack has are refused
    /// for the sake of the user, who may open the file with Python next.
    let import (modul: string) (name: string) (m: PickleMachine) : unit =
        let length = modul.Length + name.Length

        if length > longestName then
            refuse $"it imports a name of {length} characters, more than {longestName}"

        charge (made + 2L * int64 length) m
        let full = $"{modul}.{name}"

        if Map.containsKey full m.Rules.Allowed || m.Rules.IsInert full then
            push (PickleValue.Global full) m
        else
            raise (Forbidden full)

    let importLines (m: PickleMachine) : unit = import (PickleInput.line m.Input) (PickleInput.line m.Input) m

    let importFromStack (m: PickleMachine) : unit =
        match popMany 2 m with
        | [ PickleValue.Text modul; PickleValue.Text name ] -> import modul name m
        | _ -> refuse "it imports a name that is no text"

    /// Pushes the value of a call: of an allowed name what its constructor makes, of any other name, or of what such a call
    /// gave, an inert object.
    let private call (called: PickleValue) (arguments: PickleValue list) (m: PickleMachine) : unit =
        charge made m

        match called with
        | PickleValue.Global name ->
            match Map.tryFind name m.Rules.Allowed with
            | Some make ->
                match make arguments with
                | Ok value -> push value m
                | Error reason -> refuse $"{name}: {reason}"
            | None -> push (PickleValue.inert name arguments) m
        | PickleValue.Object o when m.Rules.IsInert o.Kind -> push (PickleValue.inert o.Kind arguments) m
        | _ -> refuse "it calls what is no allowed name"

    /// Calls what is below a tuple with it: a function, or a class whose instance is made.
    let reduce (m: PickleMachine) : unit =
        match popMany 2 m with
        | [ called; PickleValue.Tuple arguments ] -> call called arguments m
        | _ -> refuse "it calls what is no allowed name"

    /// As `reduce`, with a dictionary of named arguments on top; they are not kept.
    let reduceNamed (m: PickleMachine) : unit =
        pop m |> ignore
        reduce m

    /// Protocol 1's way to create an instance: class and arguments above a mark.
    let makeFromMark (m: PickleMachine) : unit =
        match popFrom (popMark m) m with
        | called :: arguments -> call called arguments m
        | [] -> refuse "it makes an instance of nothing"

    /// Protocol 0's way: the class by its name, the arguments above a mark.
    let makeInstance (m: PickleMachine) : unit =
        importLines m
        let called = pop m
        call called (popFrom (popMark m) m) m

    let build (m: PickleMachine) : unit =
        let state = pop m

        match top m with
        | PickleValue.Object o -> o.State <- state
        // Attributes of an ordered dictionary, such as the layer versions that PyTorch stores, are not needed.
        | PickleValue.Dictionary _
        | PickleValue.Sequence _ -> ()
        | _ -> refuse "it gives a state to what has none"

    let outside (m: PickleMachine) : unit =
        charge made m

        match m.Rules.Outside(pop m) with
        | Ok value -> push value m
        | Error reason -> refuse reason
